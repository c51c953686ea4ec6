"""How times are taken: one thread, warm-up apart, medians of rounds in alternation, agreement beside the time, the machine named."""
import os, platform, re, subprocess, sys, time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

@dataclass
class Row:
    "One comparison on one input."
    benchmark: str    # what is computed
    size: str         # of the input
    ours: float       # median CPU milliseconds
    other: str        # what one would use instead
    theirs: float     # median CPU milliseconds
    agreement: str    # how far the two results are apart

    @property
    def faster(self): return self.theirs / self.ours

def alternate(
    functions,    # without arguments
    rounds=7,     # at most
    seconds=6.0,  # after three rounds, stop when this is spent
):
    "Median CPU milliseconds of each function, in turns; CPU time of one thread, so that other jobs on the machine don't count."
    for function in functions: function()
    times, start = [[] for _ in functions], time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds: break
        for function, spent in zip(functions, times):
            before = time.process_time()
            function()
            spent.append(1e3 * (time.process_time() - before))
    return [median(spent) for spent in times]

def processor():
    "Name of the CPU, as the system calls it."
    try: return re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError): return platform.processor() or platform.machine()

def machine():
    "What the times depend on, the load by others included."
    import torch
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    return dict(processor=processor(), cores=os.cpu_count(), threads=torch.get_num_threads(), gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        load=[round(x, 2) for x in os.getloadavg()], system=platform.system(), python=platform.python_version(),
        versions={name: version(name) for name in ("numpy", "torch", "scikit-learn")}, revision=revision, date=date.today().isoformat())

def table(rows):
    "The rows as aligned text, times in milliseconds."
    head = "benchmark", "input", "ours, ms", "instead", "its, ms", "times faster", "agreement"
    lines = [head, *((r.benchmark, r.size, f"{r.ours:.3g}", r.other, f"{r.theirs:.3g}", f"{r.faster:.3g}", r.agreement) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in lines)
