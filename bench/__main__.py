"""`python -m bench [NAME ...]`: run the benchmarks, print one table, keep it in bench/results/ under the machine's
name, as JSON and as Markdown."""

import argparse, json, re, sys
from dataclasses import asdict
from importlib import import_module
from inspect import signature
from pathlib import Path
import torch
from bench.harness import machine, markdown, table
from rim.base.files import atomic_write

NAMES = (
    "ranking",
    "confusion",
    "trident",
    "world",
    "capture",
    "synthesis",
    "cost",
    "startup",
    "proposals",
    "pooling",
    "segment",
    "photo",
    "threads",
)
ASKED = ("compiled",)  # run when named: minutes for a question that is asked rarely


def rows_of(name, device):
    "The rows of one benchmark; those that know no device measure on the CPU."
    run = import_module(f"bench.{name}").run
    print(f"{name} ...", file=sys.stderr, flush=True)
    yield from run(device=device) if "device" in signature(run).parameters else run()


def keep(path, about, rows):
    "Write what is measured so far, as JSON and as Markdown."
    found = [
        {
            k: v
            for k, v in dict(asdict(row), faster=row.faster and round(row.faster, 2)).items()
            if v not in (None, "") or k == "ours"
        }
        for row in rows
    ]
    atomic_write(path, json.dumps(dict(machine=about, rows=found), indent=1) + "\n")
    atomic_write(path.with_suffix(".md"), markdown(rows, about))


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    every = f"which: {', '.join(NAMES)}; all of these by default; when named {', '.join(ASKED)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=every)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where models run; cpu by default")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results",
        metavar="DIR",
        help="folder of the JSON file; bench/results by default",
    )
    args = parser.parse_args(words)
    for name in args.names:
        if name not in NAMES + ASKED:
            parser.error(f"unknown benchmark {name!r}; there are {', '.join(NAMES + ASKED)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch finds none")
    torch.set_num_threads(1)  # the inputs are small, and one thread each is disturbed least by what else runs
    about, rows, failed = machine(args.device), [], []
    on = " and ".join(filter(None, [about["processor"], about["gpu"]]))
    path = args.out / f"{'-'.join([re.sub(r'[^a-z0-9]+', '-', on.lower()).strip('-'), *args.names])}.json"
    for name in args.names or NAMES:
        try:
            for row in rows_of(name, args.device):
                rows.append(row)
        except Exception as error:  # what is measured is kept, and the others go on
            print(f"{name} failed: {error!r}", file=sys.stderr, flush=True)
            failed.append(name)
        keep(path, about, rows)
    print(f"{on}, one thread of {about['cores']} cores, load {about['load'][0]}\n\n{table(rows, about['gpu'])}")
    print(f"\nkept as {path}, and for reading as {path.with_suffix('.md').name}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
