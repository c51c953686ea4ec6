"""The landing page, a gallery of the results, and the pages that list what the site has."""

import json, re
from pathlib import Path
from rim.base.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {"The paper's tables and figures": r"(table|fig)\d+$", "Studies of our own": r"study_", "Trident": r"trident_"}


def opening(path):
    "Title and subtitle of a page: a notebook's, or a Markdown file's title."
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join(next(c["source"] for c in cells if c["cell_type"] == "markdown"))
    else:
        text = path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.M)
    subtitle = re.search(r"^> (.+)$", text, re.M) if path.suffix == ".ipynb" else None
    return title[1], subtitle[1].strip() if subtitle else ""


def thumbnail(picture, target, size=(440, 330)):
    "A small copy of an image, on white."
    from PIL import Image

    image = Image.open(picture).convert("RGBA")
    image.thumbnail((2 * size[0], 2 * size[1]))
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    target.parent.mkdir(parents=True, exist_ok=True)
    paper.save(target, quality=80)


def card(notebook, pages):
    "Thumbnail, title and one sentence of a result, all linked to its page."
    folder, name = (ROOT / notebook).parent, Path(notebook).stem
    title, sentence = opening(ROOT / notebook)
    picture = next((p for p in [folder / f"{name}.png", *sorted(folder.glob("*.png"))] if p.exists()), None)
    parts = [f"**[{title}](/{notebook})**", sentence]
    if picture:
        small = Path("thumbnails", folder.parent.name, f"{name}.jpg")
        thumbnail(picture, pages / small)
        parts.insert(0, f"[![{title}](/{small.as_posix()})](/{notebook})")
    return ":::{container} card\n" + "\n\n".join(p for p in parts if p) + "\n:::"


def gallery(pages, results, registry, profiles):
    "The results by profile and kind; `registry` gives their order, `profiles` what each profile's images are."
    made = {tuple(Path(name).parts[1:3]): f"{name}.ipynb" for name in results}
    parts = []
    for profile in [p for p in ("paper", "toybox") if any(key[0] == p for key in made)]:
        for caption, pattern in GROUPS.items():
            cards = [
                card(made[profile, name], pages)
                for name in registry
                if re.match(pattern, name) and (profile, name) in made
            ]
            if cards:
                parts += [
                    f"## {caption}",
                    f"*{profiles[profile]}.*",
                    "::::{container} gallery\n" + "\n".join(cards) + "\n::::",
                ]
    return "\n\n".join(parts)


def tree(names):
    "A table of contents that shows in the sidebar only."
    return "```{toctree}\n:hidden:\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```"


def listing(pages, names):
    "A line per page: its title, linked, and its subtitle."
    files = [
        next(pages / f"{name}{suffix}" for suffix in (".ipynb", ".md") if (pages / f"{name}{suffix}").exists())
        for name in names
    ]
    told = [(file, *opening(file)) for file in files]
    return "\n".join(
        f"- [{title}](/{file.relative_to(pages).as_posix()})" + (f"  \n  {subtitle}" if subtitle else "")
        for file, title, subtitle in told
    )


def section(pages, name, title, text, names):
    "A page that introduces and lists other pages."
    (pages / f"{name}.md").write_text(
        f"# {title}\n\n{text}\n\n{listing(pages, names)}\n\n{tree(names)}\n", encoding="utf-8"
    )
    return name


def provenance(folder):
    "What made the result in `folder`, as Markdown."
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    memory = f", at most {record['peak_memory_mb'] / 1000:.1f} GB" if record.get("peak_memory_mb") else ""
    machine = record["machine"]
    rows = {
        "Profile": f"{record['profile']}. *{record['world']}.*",
        "Changed settings": ", ".join(f"`{k} = {v}`" for k, v in record["changes"].items()) or "none",
        "Command": f"`{record['command']}`",
        "Seeds": ", ".join(map(str, record["seeds"])),
        "Commit": f"`{record['revision']}`",
        "Fingerprint": f"`{record['fingerprint'][:16]}`",
        "Time": (
            f"{record['seconds']:g} s on {record['device']} ({machine['processor']}, {machine['cores']} "
            f"cores{memory}); what earlier targets had generated and cut was there already, if any ran before"
        ),
        "Libraries": ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v),
        "Weights and data": ", ".join(f"`{k}` {v[:12]}" for k, v in record["inputs"].items()),
    }
    files = " · ".join(
        f"[{p.name}](/{p.relative_to(ROOT).as_posix()})"
        for p in sorted(folder.iterdir())
        if p.suffix in (".csv", ".json", ".md", ".pdf", ".png") and p.is_file()
    )
    return f"## Provenance\n\n{markdown_table(['', ''], rows.items())}\n\nFiles: {files}"
