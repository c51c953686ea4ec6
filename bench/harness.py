"""How times are taken: one thread, warm-up apart, medians of rounds in alternation, agreement beside the time, the
machine named."""

import os, platform, subprocess, sys, time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from rim.base.ledger import process_memory, processor
from rim.base.tables import markdown_table


@dataclass
class Row:
    "One comparison on one input; without a rival, one absolute number."

    benchmark: str  # what is computed
    size: str  # of the input
    ours: float | None  # median milliseconds; None: not measured on this machine
    other: str = ""  # what one would use instead
    theirs: float | None = None  # median milliseconds
    agreement: str = ""  # how far the two results are apart
    target: str = ""  # what is asked of it
    floor: float | None = None  # milliseconds that the matrix arithmetic alone takes an H200, computed, at 790 TFLOP/s
    memory: tuple | None = None  # peak GB, ours and theirs
    point: dict | None = None  # what was varied, and its value, where the row is a point of a curve

    @property
    def faster(self):
        return self.theirs / self.ours if self.ours and self.theirs else None


def clock(device):
    """Milliseconds as a function without arguments: of the GPU when its work is done, else CPU time, so that other jobs
    on the machine don't count."""
    if not device.startswith("cuda"):
        return lambda: 1e3 * time.process_time()
    import torch

    return lambda: torch.cuda.synchronize() or 1e3 * time.perf_counter()


def alternate(
    functions,  # without arguments
    rounds=7,  # at most
    seconds=6.0,  # after the least rounds, stop when this is spent
    device="cpu",  # or cuda
    least=3,  # rounds
    turn=20.0,  # milliseconds: a function that takes less is called several times in its turn
):
    "Median milliseconds of each function, in turns."
    now, calls = clock(device), []
    for function in functions:
        function()  # warm-up: nothing of it counts
        before = now()
        if turn:
            function()
        calls.append(max(1, int(turn / max(now() - before, turn / 1000))) if turn else 1)
    times, start = [[] for _ in functions], time.perf_counter()
    for done in range(rounds):
        if done >= least and time.perf_counter() - start > seconds:
            break
        for function, n, spent in zip(functions, calls, times):
            before = now()
            for _ in range(n):
                function()
            spent.append((now() - before) / n)
    return [median(spent) for spent in times]


def high_water():
    "The most memory that this process has held, GB; Linux tells."
    return process_memory() / 2**20


def peak(
    module,  # of this folder
    call,  # an expression in it; `inputs`, an expression before it, is made first and doesn't count
    inputs="None",
):
    """Peak memory of a call in a process of its own, GB over what its inputs take, not over what making them took; not
    a number where the system doesn't tell."""
    code = (
        f"import torch; from bench.harness import high_water; from bench.{module} import *; "
        f"torch.set_num_threads(1); a = {inputs}; open('/proc/self/clear_refs', 'w').write('5'); before = "
        f"high_water(); {call}; print(high_water() - before)"
    )
    if not Path("/proc/self/status").exists():
        return float("nan")
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def machine(device="cpu"):
    "What the times depend on, the load by others included."
    import torch

    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    return dict(
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if device.startswith("cuda") else None,
        load=[round(x, 2) for x in os.getloadavg()],
        system=platform.system(),
        python=platform.python_version(),
        versions={name: version(name) for name in ("numpy", "torch", "scikit-learn", "diffusers", "transformers")},
        revision=revision,
        date=date.today().isoformat(),
    )


COLUMNS = (
    "stage",
    "input",
    "ours, ms",
    "instead",
    "its, ms",
    "times faster",
    "agreement",
    "target",
    "of the floor",
    "peak GB, ours / its",
)


def cells(row, gpu=None):
    "A comparison in words, as `COLUMNS` has them; a share of the floor, which is an H200's, only on one."
    time_of = lambda x: "not measured" if x is None else f"{x:.3g}"
    share = "" if row.floor is None else "not measured"
    if row.floor is not None and row.ours and "H200" in (gpu or ""):
        share = f"{row.floor / row.ours:.0%}"
    return (
        row.benchmark,
        row.size,
        time_of(row.ours),
        row.other,
        time_of(row.theirs) if row.other else "",
        f"{row.faster:.3g}" if row.faster else "",
        row.agreement,
        row.target,
        share,
        "" if row.memory is None else " / ".join(f"{x:.2g}" for x in row.memory),
    )


def table(rows, gpu=None):
    "The rows as aligned text, times in milliseconds."
    columns = [column for column in zip(COLUMNS, *(cells(row, gpu) for row in rows)) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in zip(*columns)
    )


def markdown(rows, about):
    "The rows with a target, as a Markdown table with a line on the machine."
    shown = COLUMNS.index("target") + 1
    lines = [cells(row)[:shown] for row in rows if row.target]
    versions = ", ".join(
        f"{name} {number}"
        for name, number in about["versions"].items()
        if name in ("torch", "diffusers", "transformers")
    )
    on = " and ".join(filter(None, [about["processor"], about["gpu"]]))
    foot = f"{on}, one thread of {about['cores']} cores, load {about['load'][0]}; {versions}; {about['date']}."
    return f"{markdown_table(COLUMNS[:shown], lines)}\n\n{foot}\n"
