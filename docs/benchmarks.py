"""Render docs/benchmarks.md from bench/results/*.json, one section per machine: `python docs/benchmarks.py`.

What `python -m bench` and `make gpu-day` keep is shown as it is: another machine's file needs no other step."""

import json, sys
from pathlib import Path
from textwrap import fill
from rim.base.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # bench is no part of the package
from bench.harness import COLUMNS, Row, cells

HEAD = """# Benchmarks

What one step takes, beside what one would use instead: by turns, on the same inputs, with the same weights, medians
of several rounds. `make bench` measures it on the machine that it runs on ([how](../bench/harness.py)), `make gpu-day`
on a GPU; each leaves a file in `bench/results/`, and this page is made from these files alone (`python
docs/benchmarks.py`). On a CPU times are those of the process, on a GPU those of the clock after the device has ended
its work. *Not measured*: the row needs another machine. Models of real size have random weights unless a row says
otherwise: times and agreement do not depend on them, masks and labels do.

Rows *compiled* are the three hot loops through `torch.compile`, where *instead* is the compiled form. It is kept where
it pays: on a GPU for generation, by the setting `compile`. On a CPU nothing is compiled: each process would spend
minutes on it, for a tenth of the UNet's pass, a quarter of SAM's decoder and nothing of DINOv2.
"""


def read(root=ROOT):
    "What is kept of each machine: name of its file -> content, GPUs first."
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((root / "bench/results").glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: (not item[1]["machine"].get("gpu"), item[0])))


def table(columns, rows):
    "Markdown; a column without any word is dropped."
    kept = [i for i in range(len(columns)) if any(str(row[i]).strip() for row in rows)]
    return markdown_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def measured(row, gpu):
    "The cells of one comparison."
    return cells(Row(**{name: value for name, value in row.items() if name != "faster"}), gpu)


def step(record):
    "The cells of one step of a GPU day."
    end = "done" if record["code"] == 0 else f"failed with {record['code']}"
    return record["step"], " ".join(record["command"]), end, f"{record['seconds']:.0f}", record.get("summary", "")


def machine(about):
    "The machine in words."
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    load = f", load {about['load'][0]}" if about.get("load") else ""
    threads = f"{about['threads']} thread{'s' * (about['threads'] != 1)} of {about['cores']} cores"
    return (
        f"{about['processor']}, {threads}{load}; {about['system']}, Python {about['python']}; {versions}; "
        f"code {about['revision']}; {about['date']}."
    )


def section(name, content):
    "One machine."
    about, rows, steps = content["machine"], content.get("rows", []), content.get("steps", [])
    words = fill(f"`bench/results/{name}.json`: {machine(about)}", 120, break_long_words=False, break_on_hyphens=False)
    parts = [f"## {about.get('gpu') or about['processor']}", words]
    if rows:
        parts.append(table(COLUMNS, [measured(row, about.get("gpu")) for row in rows]))
    if steps:
        parts.append(table(("step", "command", "end", "seconds", "what it gave"), [step(record) for record in steps]))
    return "\n\n".join(parts)


def render(root=ROOT):
    "The text of the page."
    return "\n\n".join([HEAD.strip(), *(section(name, content) for name, content in read(root).items())]) + "\n"


def write(root=ROOT):
    "Write the page; whether it has changed."
    page, text = root / "docs/benchmarks.md", render(root)
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return False
    page.write_text(text, encoding="utf-8")
    return True


if __name__ == "__main__":
    print(f"docs/benchmarks.md: {'changed' if write() else 'as it was'}")
    sys.exit(0)
