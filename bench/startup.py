"""Until something happens: `import rim` and `rim --help`, each in fresh processes."""

import subprocess, sys, time
from statistics import median
from bench.harness import Row


def fresh(words, runs=7):
    "Median milliseconds, wall clock, of a process of its own; the first one fills the disk's cache and doesn't count."
    times = []
    for _ in range(runs + 1):
        before = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(1e3 * (time.perf_counter() - before))
    return median(times[1:])


def run(runs=7):
    nothing = fresh(["-c", "pass"], runs)
    yield Row(
        "start-up", "import rim", fresh(["-c", "import rim"], runs), "Python itself", nothing, target="at most 300 ms"
    )
    yield Row(
        "start-up",
        "rim --help",
        fresh(["-m", "rim.apps.cli", "--help"], runs),
        "Python itself",
        nothing,
        target="at most 500 ms",
    )
