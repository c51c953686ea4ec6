"""What is promised, and which tests hold it: `python tests/promises.py` writes nbs/apps/15_promises.ipynb from the
marks `@pytest.mark.promise(number)` and from tests/measured.json, where slow tests leave their figures."""

import ast, functools, json, textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE, MEASURED = ROOT / "nbs/apps/15_promises.ipynb", ROOT / "tests/measured.json"
PROMISES = {
    1: (
        "Killed at any moment of building a bank or evaluating, a restart loses at most the piece in flight, and "
        "the end result equals an uninterrupted run byte for byte."
    ),
    2: "An exception between writing and renaming leaves the old file intact; temporary files lie beside their target.",
    3: (
        "A truncated, empty or bit-flipped artefact is detected on reading, named, and, where it can be, "
        "computed again."
    ),
    4: "Sixteen processes that build the same entry leave one value and no error.",
    5: "A full disk or a read-only folder is a clear error, with no half file, and the finished part is kept.",
    6: "A setting that can change a result makes the cache miss, every time; one that can't, hits.",
    7: (
        "Hostile pictures are read in the right colours and the right way up, or refused in one sentence; a bomb "
        "is refused before it is decoded."
    ),
    8: "Wrong ground truth is named before any model runs.",
    9: "A vocabulary may have one name or five thousand, in any script; what is none is refused.",
    10: (
        "Without a network and with nothing cached, one sentence says which command fetches what is missing, "
        "before any work."
    ),
    11: "Weights: a pickle's payload never runs, a wrong hash is refused, another architecture is named.",
    12: "Where the device's memory doesn't do, the batch is halved, and the result is the same.",
    13: (
        "No proposal, an empty mask, NaN features, a black image, an empty attention map: each has a defined "
        "outcome, and is counted."
    ),
    14: "Ctrl-C ends with a summary of what is done and exit code 130, and the same command goes on.",
    15: (
        "What fails on one item again and again is excluded with its traceback, the others finish, and the exit "
        "code isn't zero."
    ),
    16: "Ray listens on the loopback only, without a dashboard, with tokens, without usage statistics.",
    17: (
        "Nothing that a data set, a checkpoint or a parameter contains is executed, and no path in an input "
        "leaves the output folder."
    ),
    18: "Any bytes are an image, a vocabulary, settings, a bank or an entry, or one sentence says why not.",
    19: "Large inputs take time, not ever more memory.",
    20: "Dependencies are pinned and have the versions that mend known holes; no code comes from a model's repository.",
    30: (
        "An image is read upright whatever else its metadata say: no damaged field, odd type or large profile "
        "makes a sound image unreadable or turns it wrongly."
    ),
    31: (
        "Values are those of the file: white is white at every depth of grey, a label of 2 or 4 bit is the "
        "number that was written, and a label map that may hold other values is refused."
    ),
    32: (
        "Typed names mean one thing to every command: unseen letters are dropped, the commas of all keyboards "
        "separate, and what may mean several things is refused."
    ),
    33: "Attention is that of the word that was put into the prompt, wherever else it stands in it.",
    34: (
        "Every pixel counts as its own truth says: a class numbered 255, an image that is there twice, masks of "
        "0 and 255 and benchmarks without a scored pixel are understood or refused."
    ),
    35: (
        "No file of a folder is skipped in silence: linked folders are looked into, once each, and files of "
        "other formats are named."
    ),
    36: "What others read has what their format lists: a COCO file has every key, also those that few readers ask for.",
    37: (
        "Capitals, synonyms and spellings of an accent name the same class, mask or photograph everywhere, and a "
        "mask of another spelling is never taken for a photograph."
    ),
    38: (
        "Overlays write names in their own letters; one that no font of the machine has is its number, so that "
        "no two names look alike."
    ),
    39: (
        "Bytes that broke something once are kept and tried again, and bytes like them: images, label maps and lists "
        "of names are answered, or refused in one sentence."
    ),
    50: "Settings are read as any editor saves them; a damaged file of ours is named, and never skipped.",
    51: (
        "What can be known of settings and machine at the start is refused at the start: exit code 2, one "
        "sentence, nothing generated."
    ),
    52: "A file system that refuses fsync, chmod or locks is no failure; a full or broken disk is.",
    53: "Results hold no path of the machine or of its user, however it is spelled.",
    54: (
        "Notebooks run in the environment of the command, and figures are drawn in the house style, whatever "
        "kernels, start-up files and styles the user has."
    ),
    55: "A console that can't show a letter, or whose reader goes away, costs no result.",
    56: (
        "A folder named like a benchmark is measured where its path is given, and a name that means two things "
        "is refused."
    ),
    57: "Every command that is printed can be pasted into a shell, whatever blanks and quotes its paths have.",
    58: "A script that starts workers without a guard ends, and its last line says what to do.",
    64: (
        "Labels that are handed on come back: COCO, VOC, Label Studio and CVAT return every pixel and every name, read "
        "with their own code, and what polygons lose is counted."
    ),
    65: (
        "An export appears whole or not at all and overwrites nothing; what a format can't hold, and what is damaged "
        "on its way back, is refused in one sentence."
    ),
    61: (
        "What is unknown has a value of its own in label maps, is counted apart, and is in no COCO file; a profile "
        "without a calibrated confidence refuses it."
    ),
    62: (
        "A correction is on the disk before anything is named again, comes back as it was written, and is not "
        "overwritten by a later run that does not name it."
    ),
    63: "The name that a pixel would have without an image is the one that computing again without it gives.",
}


def numbers_of(node):
    "The promises that a test, or a module's pytestmark, is marked with."
    found = [
        c for d in node for c in ast.walk(d) if isinstance(c, ast.Call) and ast.unparse(c.func) == "pytest.mark.promise"
    ]
    return [number for call in found for number in map(ast.literal_eval, call.args)]


@functools.cache
def held():
    "promise -> tests that hold it, as pytest names them -> whether they are slow."
    tests = {number: {} for number in PROMISES}
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        whole = [
            n
            for a in body
            if isinstance(a, ast.Assign) and ast.unparse(a.targets[0]) == "pytestmark"
            for n in numbers_of([a.value])
        ]
        for test in (f for f in body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")):
            slow = "pytest.mark.slow" in map(ast.unparse, test.decorator_list)
            for number in numbers_of(test.decorator_list) or whole:
                tests[number][f"{file.name}::{test.name}"] = slow
    return tests


def measured():
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}


def indented(figure):
    "A measured figure as the continuation of a list item."
    text = f"{figure['figure']} ({figure['machine']}, {figure['date']})"
    return textwrap.fill(text, 118, initial_indent="  ", subsequent_indent="  ")


def page():
    "The page, as a notebook of Markdown."
    figures, parts = (
        measured(),
        [
            "# Promises\n\n> What happens when things go wrong, and the test that holds each promise\n\n"
            "Faults are injected for real: processes are killed, files are damaged, disks are full, interrupts are\n"
            "sent. Slow tests take minutes and run with `--slow`, the others in every `make test`. Figures were\n"
            "measured by the slow tests, on the machine and the day that stand beside them; all are of the toybox,\n"
            "its trained models or tiny untrained ones."
        ],
    )
    for number, tests in held().items():
        lines = [
            f"- `{test}`" + ", slow" * slow + (f"\n{indented(f)}" if (f := figures.get(test)) else "")
            for test, slow in tests.items()
        ]
        parts.append("\n".join([f"## {number}. {PROMISES[number]}", "", *(lines or ["Nothing holds it yet."])]))
    cells = [
        {"cell_type": "markdown", "id": f"promise{i}", "metadata": {}, "source": text.splitlines(True)}
        for i, text in enumerate(parts)
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return (
        json.dumps(
            {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5},
            indent=1,
            ensure_ascii=False,
            sort_keys=True,
        )
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
