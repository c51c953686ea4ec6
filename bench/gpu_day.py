"""`make gpu-day`: checks, benchmarks, agreement and the paper profile's targets on a GPU, in the order of their value.

First it prints what each step costs. A step that is done is skipped, so the same command goes on after an interruption;
a step that fails is noted and the next one runs. At the end everything is in one results.json."""

import argparse, json, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TFLOPS = 790  # an H200's measured rate of matrix products in bfloat16
# The multiple of its floor that a step may take. Measured on an H200: generation, most of it all, 2.3 when compiled; an
# image's regions 13.
LIKELY = 3
ROW = 0.02  # seconds of a CPU core for one image of one row of a table: reading, matching, label map, confusion

# GFLOP of matrix products
GENERATED = 82_842  # an image of 512 x 512, Stable Diffusion 1.4, 50 steps, guidance, decoded
ANALYSED = 972 + 2886 + 303  # SAM's encoder, its decoder with 1024 points, DINOv2
FEATURES = dict(clip=230, mae=230, sd=2000)  # another encoder at 518 pixels
CROPS = 75 * 35  # CLIP on each proposal's crop
TRIDENT = {"B/16": 2400, "H/14": 8500}  # windows through CLIP and DINO, SAM's encoder, prompts


@dataclass(frozen=True)
class Step:
    "A command and what it computes."

    name: str
    words: tuple  # the command
    gflop: float = 0
    minutes: float = 0  # beside the matrix products: reading, tests, kernels that are tuned

    @property
    def hours(self):
        "At the floor of the arithmetic, and likely."
        floor = self.gflop / TFLOPS / 3.6e6
        return floor, LIKELY * floor + self.minutes / 60


def sizes():
    "Images and names to generate of each benchmark."
    from rim.base.settings import Settings
    from rim.measure.folders import read_names
    from rim.measure.sources import SOURCES, names_file

    settings, found = Settings.from_profile("paper"), {}
    for name, source in SOURCES.items():
        words = [word for *_, word in read_names(names_file(source.names, "plain")).prompts(settings.prompt)]
        found[name] = source.images, words
    return settings, found


def steps():
    "All steps, the most valuable first; what an earlier step left in the store costs a later one nothing."
    settings, found = sizes()
    python, rim = sys.executable, (sys.executable, "-m", "rim.apps.cli")
    images = {name: n for name, (n, _) in found.items()}
    painted = set()

    def references(*benchmarks):
        new = {w for b in benchmarks for w in found[b][1]} - painted
        painted.update(new)
        return len(new) * settings.images_per_class * GENERATED

    def target(name, rows, seen, gflop=0.0):
        words = *rim, "reproduce", name, "--profile", "paper", "--set", "compile=yes"  # generation is most of the day
        return Step(name, words, gflop, 2 + rows * seen * ROW / 60)

    coco, voc, context = images["coco-object"], images["voc21"], images["context60"]
    three, eight = coco + voc + context, sum(images.values())
    yield Step("doctor", (*rim, "doctor", "--profile", "paper"), minutes=1)
    yield Step("tests", (python, "-m", "pytest", "-n", "0", "--gpu", "-m", "gpu"), minutes=5)
    yield Step("bench", (python, "-m", "bench", "--device", "cuda"), minutes=20)
    agreement = "bench", "agreement", "--profile", "paper", "--set", "benchmark=coco-object", "--limit", "32", "--json"
    agreement += "--set", "compile=yes"
    yield Step("agreement", (*rim, *agreement), references("coco-object") + 96 * ANALYSED, 10)
    yield target("table2", 8, coco, coco * (ANALYSED + CROPS))
    yield target("table5", 11, coco)
    yield target("table1", 4, three, references("voc21", "context60") + (voc + context) * (ANALYSED + CROPS))
    yield target("table4", 11, voc)
    yield target("fig4", 6, voc)
    yield target("study_agents", 41, coco)
    yield target("table3", 12, coco, coco * sum(FEATURES.values()))
    yield target("fig5", 48, coco)
    yield target("study_background", 16, coco)
    yield target("study_images_per_class", 95, coco)
    yield target("study_label_painting", 8, coco)
    yield target("study_choices", 36, 40, 3 * 8 * 80 * GENERATED + 9 * 40 * ANALYSED)
    yield target("fig1", 4, coco)
    yield target("fig3", 2, three)
    yield target("fig6", 2, coco)
    yield target("trident_table1", 4, eight, eight * sum(TRIDENT.values()))
    yield target("trident_ablation", 6, coco, 6 * coco * TRIDENT["B/16"])
    yield target("trident_vs_rim", 6, coco, coco * TRIDENT["B/16"])


def plan(chosen):
    "The table of costs."
    total = [sum(s.hours[i] for s in chosen) for i in (0, 1)]
    lines = [f"{'step':24}{'floor, h':>10}{'likely, h':>11}"]
    lines += [f"{s.name:24}{s.hours[0]:>10.2f}{s.hours[1]:>11.2f}" for s in chosen]
    lines += [f"{'all':24}{total[0]:>10.2f}{total[1]:>11.2f}"]
    lines += [
        f"Floor: matrix products at {TFLOPS} TFLOP/s (H200, bfloat16), computed, not measured. Likely: "
        f"{LIKELY} times that, "
        "and the rest of the work. What a step leaves in the store costs the later ones nothing."
    ]
    return "\n".join(lines)


def done(step, out, revision):
    "The record of a step that ended well with this code, or None."
    try:
        record = json.loads((out / f"{step.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record["code"] == 0 and record["revision"] == revision else None


def run(step, out, revision):
    "Run a step, its output into a file; its record."
    start, log = time.time(), out / f"{step.name}.log"
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(step.words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    record = dict(
        step=step.name,
        command=["python", *step.words[1:]],
        code=code,
        seconds=round(time.time() - start, 1),
        floor_hours=step.hours[0],
        revision=revision,
    )
    (out / f"{step.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def collect(records, about, out):
    "results.json: the machine, the steps, and every table of the paper profile."
    tables = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "figures/paper").glob("*/results.json"))
    }
    path = out / "results.json"
    path.write_text(json.dumps(dict(machine=about, steps=records, results=tables), indent=1) + "\n", encoding="utf-8")
    return path


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_day", description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="which; all by default")
    parser.add_argument("--plan", action="store_true", help="print the costs and stop")
    parser.add_argument("--hours", type=float, default=24, help="start no step that would likely end later (24)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "gpu-day", metavar="DIR", help="out/gpu-day by default"
    )
    args = parser.parse_args(words)
    known = list(steps())
    for name in args.steps:
        if name not in {s.name for s in known}:
            parser.error(f"unknown step {name!r}; there are {', '.join(s.name for s in known)}")
    chosen = [s for s in known if not args.steps or s.name in args.steps]
    print(plan(chosen), flush=True)
    if args.plan:
        return 0
    import torch
    from bench.harness import machine

    if not torch.cuda.is_available():
        parser.error("a GPU day needs a CUDA device, and torch finds none; --plan prints the costs anywhere")
    args.out.mkdir(parents=True, exist_ok=True)
    about, start, records = machine("cuda"), time.time(), []
    for step in chosen:
        if record := done(step, args.out, about["revision"]):
            print(f"{step.name}: done before", flush=True)
        elif (time.time() - start) / 3600 + step.hours[1] > args.hours:
            print(f"{step.name}: skipped, it would likely end after {args.hours:g} h", flush=True)
            continue
        else:
            print(f"{step.name}: running, see {args.out / step.name}.log", flush=True)
            record = run(step, args.out, about["revision"])
            print(f"{step.name}: {'done' if record['code'] == 0 else 'failed'}, {record['seconds']:.0f} s", flush=True)
        records.append(record)
        path = collect(records, about, args.out)  # after every step: an interruption loses nothing
    print(f"{path}: {sum(r['code'] == 0 for r in records)} of {len(chosen)} steps are done")
    return int(any(r["code"] for r in records) or len(records) < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
