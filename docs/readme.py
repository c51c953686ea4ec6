"""Render README.md from nbs/index.ipynb: `python docs/readme.py`. Quarto is not needed.

Text cells are taken as they are and code cells become fenced code. A line
`<!-- include PATH | TEXT -->` becomes the file at PATH, or TEXT where it doesn't exist yet."""

import json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^<!-- include (\S+) \| (.*) -->$", re.M)
BLOCK = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.S)


def included(match, root):
    "The file that an include line names, between comments that say so."
    path, otherwise = match.groups()
    text = (root / path).read_text(encoding="utf-8").strip() if (root / path).exists() else otherwise
    return f"<!-- begin {path} -->\n{text}\n<!-- end {path} -->"


def render(root=ROOT):
    "The README's text."
    cells = json.loads((root / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = [
        "".join(c["source"]) if c["cell_type"] == "markdown" else f"```python\n{''.join(c['source'])}\n```"
        for c in cells
    ]
    return MARK.sub(lambda m: included(m, root), "\n\n".join(texts)) + "\n"


def without_results(text):
    "A README without the included results, which change with every measurement."
    return BLOCK.sub(r"\1\3", text)


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render(), encoding="utf-8")
