"""Prose and lines: at most 120 characters, and the words of the glossary."""

import ast, io, json, re, tokenize
from functools import cache
import pytest
from conftest import ROOT

WIDTH = 120
NOTEBOOKS = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if not re.search(r"checkpoint|partial", p.name)]
PYTHON = [p for room in ("rim", "tests", "bench", "docs") for p in sorted((ROOT / room).rglob("*.py"))]
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "_modidx.py"  # and the lines of `__all__`, both written by nbdev
UNBREAKABLE = re.compile(r"^\s*(- `tests/|\||\$\$|#+ |!?\[|<|- \[|https?:)|^__all__ = |^ {6,}'.*'")


def relative(path):
    return path.relative_to(ROOT).as_posix()


@cache
def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def long_lines(text, unbreakable=None):
    return [line for line in text.split("\n") if len(line) > WIDTH and not (unbreakable and unbreakable.match(line))]


def outside_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_lines_of_a_notebook(path):
    "Code and Markdown; a table row, a displayed formula and a heading can't be broken."
    code = [source(c) for c in cells(path) if c["cell_type"] == "code"]
    prose = [outside_fences(source(c)) for c in cells(path) if c["cell_type"] == "markdown"]
    long = [line for text in code for line in long_lines(text)]
    assert long + [line for text in prose for line in long_lines(text, UNBREAKABLE)] == []


@pytest.mark.parametrize("path", [p for p in PYTHON if p.name != GENERATED], ids=relative)
def test_lines_of_a_module(path):
    assert long_lines(path.read_text(encoding="utf-8"), re.compile(r"^__all__ = ")) == []


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_lines_of_a_text(path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<!-- begin .*?<!-- end [^>]*-->", "", text, flags=re.S)  # results that are included
    assert long_lines(outside_fences(text), UNBREAKABLE) == []


BANNED = {
    r"pictures?": "image or photograph",
    r"chances?": "probability, or random guessing",
    r"whole numbers?": "integer",
    r"so-manieth": "k-th",
    r"set aside": "excluded",
    r"left out": "skipped or excluded",
    r"world of our own": "synthetic benchmark",
    r"paint(s|ed|ing)? (reference )?(images?|references?)": "generate",
}  # word -> what is written instead
BANNED_IN_NOTEBOOKS = {
    r"how many": "the number of",
    r"how often": "the number of times, or the share",
    r"(?<!ground )truths?": "ground truth",
    r"nobody|somebody|whoever": "the passive, or who it is",
    r"noised": "noisy",
    r"(un)?heard|hears?": "recorded",
    r"told": "receives, is called with, or reported",
    r"in the place of": "instead of",
    r"asked for": "requested, or in the vocabulary",
    r"whatever": "any, or independently of",
    r"says": "has, or returns",
}  # and in their modules; the executed copies of the paper's notebooks hold the text that they had
QUOTED = re.compile(r"^```.*?^```|`[^`\n]*(?:\n[^`\n]+)?`|\]\([^)]*\)|\$[^$\n]+\$|<[^>\n]+>|https?:\S+", re.S | re.M)
ALLOWED = {"nbs/apps/15_promises.ipynb", "CHANGELOG.md"}  # names of tests; what was written at the time


def docstrings(text):
    tree = ast.parse(text)
    kinds = ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return [found for node in ast.walk(tree) if isinstance(node, kinds) and (found := ast.get_docstring(node))]


def comments(text):
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [t.string for t in tokens if t.type == tokenize.COMMENT and not t.string.startswith("#|")]


def prose(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [text]
    if path.suffix == ".py":
        return [*docstrings(text), *comments(text)]
    return [source(cell) for cell in cells(path) if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("path", [p for p in (*NOTEBOOKS, *PYTHON, *TEXTS) if relative(p) not in ALLOWED], ids=relative)
def test_words_of_the_glossary(path):
    "Prose, docstrings and comments; code, links and formulas may hold any name."
    strict = relative(path).startswith(("nbs/", "rim/")) and "paper" not in path.parts
    words = BANNED | (BANNED_IN_NOTEBOOKS if strict else {})
    for text in prose(path):
        plain = " ".join(QUOTED.sub(" ", text).split())
        for word, instead in words.items():
            found = re.search(rf"(?i)\b(?:{word})\b", plain)
            near = found and plain[max(found.start() - 60, 0) : found.end() + 40]
            assert not found, f"write {instead}, not {found[0]!r}: … {near!r}"
