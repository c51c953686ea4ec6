"""Render docs/calibration.md, toybox and photographs on one page, from the results of study_confidence.

Every number is a cell of a table in figures/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORLDS = {"toybox": "Toybox", "photo": "Photographs"}
INTRODUCTION = """# Calibration of the confidence

A confidence of .8 is calibrated if 80 % of the labels with it are right. The curves were fitted on validation images,
once per profile ([Confidence](../nbs/method/21_confidence.ipynb),
[Calibration](../nbs/measure/18_calibration.ipynb)); everything on this page was measured on other images, the
toybox's test scenes and photographs of COCO's val part with the 20 classes of VOC. *A class lacking*: each image is
segmented without each of its classes, in turn; *half of the names lacking*: without half of all names, drawn
separately for each image. The executed notebooks:

{notebooks}"""
SECTIONS = {
    "Reliability": (
        "Right, %, by confidence. *Pixels* is the label map; *regions* are proposals.",
        "reliability.png",
    ),
    "Expected calibration error": (
        "In %, over 15 bins. Isotonic regression and the softmax are included for comparison.",
        "study_confidence.md",
    ),
    "Accuracy at coverage": (
        "The accuracy of the other pixels when the least certain ones are unknown.",
        "coverage.png",
    ),
    "What unknown costs": (
        "With all names. The last column counts an unknown pixel as missed, in the mean IoU of all pixels.",
        "unknown.md",
    ),
    "Classes that the list lacks": (
        "The labels of their pixels, which should be background or unknown.",
        "missing.md",
    ),
}


def table(path):
    "The lines of a table in Markdown, without what stands below it."
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def side_by_side(name, folders):
    "One image of each world in a row."
    images = [f"![{WORLDS[w]}, {Path(name).stem}](../{folder}/{name})" for w, folder in folders.items()]
    return ["| " + " | ".join(WORLDS[w] for w in folders) + " |", "|---" * len(folders) + "|"] + [
        "| " + " | ".join(images) + " |"
    ]


def section(title, text, name, folders, root):
    "Text, and what the worlds have of it."
    lines = [f"## {title}", "", text, ""]
    if name.endswith(".png"):
        return lines + side_by_side(name, folders) + [""]
    for world, folder in folders.items():
        lines += [f"**{WORLDS[world]}**", "", *table(root / folder / name), ""]
    return lines


def render(root=ROOT):
    "The page's text."
    folders = {world: f"figures/{world}/study_confidence" for world in WORLDS}
    folders = {world: folder for world, folder in folders.items() if (root / folder / "provenance.json").exists()}
    links = [f"- [{WORLDS[w]}](../{folder}/study_confidence.ipynb)" for w, folder in folders.items()]
    lines = [INTRODUCTION.format(notebooks="\n".join(links)), ""]
    for title, (text, name) in SECTIONS.items():
        lines += section(title, text, name, folders, root)
    return "\n".join(lines).rstrip() + "\n"


def write(root=ROOT):
    "The page, if it changed."
    path, text = root / "docs/calibration.md", render(root)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    path.write_text(text, encoding="utf-8")
    return [path]


if __name__ == "__main__":
    write()
