"""Load: many images, many names, large pictures, many damaged files. Slow; each leaves its figure on the page of promises."""
import multiprocessing, os, time
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from rim import cli
from rim.datasets import FolderBenchmark, ToyboxBenchmark
from rim.evaluation import evaluate, shard
from rim.ledger import peak_memory
from rim.references import ReferenceBank
from rim.segmentation import Method
from rim.segmenter import RIM
from rim.settings import Settings
from rim.store import Store

pytestmark = [pytest.mark.promise(19), pytest.mark.slow]  # minutes each
fork = multiprocessing.get_context("fork")
TINY = dict(pretrained=False, diffusion="tiny:diffusion", sam="tiny:sam", dino="tiny:dino", images_per_class=1, denoising_steps=1, subcategories=1, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)

def resident(): return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024  # MB

def apart(run, *args):
    "What `run` returns in a process of its own, so that its memory is its own."
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(run(*args)))
    process.start(); sender.close()
    return process, receiver

def half(text, root, n):
    "Evaluate every second image; memory after a tenth of them and at the end."
    memory = []
    def bright(image, _):
        memory.append(resident())
        return (image.mean(2) > 180).astype(np.uint8)
    evaluate({"bright": Method(bright, key={"m": "bright"})}, shard(ToyboxBenchmark(n, size=64), text), Settings.from_profile("toybox", bootstrap=10), Store(root), False)
    return len(memory), memory[len(memory) // 10], memory[-1]

def test_twenty_thousand_images_on_two_cores(tmp_path, figure):
    n, start = 20_000, time.perf_counter()
    halves = [apart(half, f"{i}/2", tmp_path, n) for i in (1, 2)]
    found = [receiver.recv() for _, receiver in halves]
    for process, _ in halves: process.join()
    seconds = time.perf_counter() - start
    assert sum(count for count, *_ in found) == n
    grown = max(last - first for _, first, last in found)
    report = evaluate({"bright": Method(None, key={"m": "bright"})}, ToyboxBenchmark(n, size=64), Settings.from_profile("toybox", bootstrap=10), Store(tmp_path), False)  # all of them are in the store: nothing is predicted
    assert len(report.items) == n and grown < 60
    figure(f"{n} rendered scenes of 64 pixels, a threshold as the method: {seconds:.0f} s, {grown} MB more at the end than after a tenth")

def long_run(n):
    rim = RIM(Settings.from_profile("toybox", images_per_class=2, denoising_steps=5))
    method, memory = rim.method("boat, tree, bird"), []
    for i in range(n):
        image, *_ = ToyboxBenchmark(n)[i]
        method(image)
        memory.append(resident())
    return memory

def test_memory_of_the_real_method_does_not_grow(figure):
    process, receiver = apart(long_run, 300)
    memory = receiver.recv()
    process.join()
    grown = int(np.mean(memory[-20:]) - np.mean(memory[40:60]))
    assert grown < 60
    figure(f"RIM on 300 scenes: {grown} MB more at the end than after fifty, {max(memory)} MB at most")

def many_names(n):
    settings, start = Settings.from_profile("toybox", **TINY), time.perf_counter()
    rim = RIM(settings)
    bank = rim.bank_for([f"thing {i}" for i in range(n)], progress=False)
    built, memory = time.perf_counter() - start, peak_memory()
    image = ToyboxBenchmark(1)[0][0]
    rim.segment(image, bank.names)  # k-means and the Gram matrix are made once
    start = time.perf_counter()
    found = rim.segment(image, bank.names)
    return built, memory, time.perf_counter() - start, peak_memory(), len(found.regions), int(found.labels.max())

def test_five_thousand_names(figure):
    process, receiver = apart(many_names, 5000)
    built, memory, seconds, most, regions, largest = receiver.recv()
    process.join()
    assert regions > 0 and 255 < largest <= 5000 and most < 6000
    figure(f"a bank of 5000 names, one tiny picture each: {built:.0f} s, {memory} MB; matching a scene of {regions} regions with it: {seconds:.1f} s, {most} MB at most")

def large(picture, out):
    start = time.perf_counter()
    code = cli.main(["segment", str(picture), "--classes", "boat, tree", "--out", str(out), "--set", "images_per_class=2", "--set", "denoising_steps=5"])
    return code, time.perf_counter() - start, peak_memory()

def test_a_picture_of_48_megapixels(tmp_path, figure):
    scene = ToyboxBenchmark(1)[0][0]
    Image.fromarray(scene).resize((8000, 6000)).save(tmp_path / "large.png")
    process, receiver = apart(large, tmp_path / "large.png", tmp_path / "out")
    code, seconds, most = receiver.recv()
    process.join()
    assert code == 0 and Image.open(tmp_path / "out/large.png").size == (8000, 6000) and most < 16_000
    figure(f"rim segment on 8000 x 6000 pixels: {seconds:.0f} s, {most} MB at most")

DAMAGES = (lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"<html>not found</html>", lambda b: b[:40] + bytes(len(b) - 40))

@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    "A folder benchmark of a thousand scenes, every twentieth picture damaged."
    root, scenes = tmp_path_factory.mktemp("thousand"), ToyboxBenchmark(1000, size=48)
    for name in ("images", "labels"): (root / name).mkdir()
    (root / "names.txt").write_text("background\n" + "".join(f"{name}\n" for name in scenes.vocabulary.names))
    for i in range(1000):
        image, truth, _ = scenes[i]
        Image.fromarray(image).save(root / f"images/{i:04}.png"); Image.fromarray(truth).save(root / f"labels/{i:04}.png")
    broken = [root / f"images/{i:04}.png" for i in range(7, 1000, 20)]
    for k, path in enumerate(broken): path.write_bytes(DAMAGES[k % len(DAMAGES)](path.read_bytes()))
    return root, broken

def words_of(**settings): return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]

def test_a_folder_of_which_five_percent_are_damaged(capsys, tmp_path, thousand, figure):
    root, broken = thousand
    start = time.perf_counter()
    code = cli.main(["segment", *map(str, sorted((root / "images").iterdir())), "--classes", "boat, tree", "--out", str(tmp_path / "out"), *words_of(**TINY)])
    seconds, said = time.perf_counter() - start, capsys.readouterr().err
    assert code != 0 and all(path.name in said for path in broken)
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 1000 - len(broken)
    figure(f"1000 pictures of 48 pixels, {len(broken)} of them damaged, tiny models: {seconds:.0f} s, {1000 - len(broken)} segmented, {len(broken)} named")

def test_a_benchmark_of_which_five_percent_are_damaged_is_refused_at_once(capsys, tmp_path, thousand):
    root, broken = thousand
    assert cli.main(["evaluate", str(root), "--out", str(tmp_path / "out"), *words_of(**TINY)]) == 2
    said = capsys.readouterr().err
    assert sum(path.name in said for path in broken) == 20 and "and 30 more" in said
    assert cli.main(["data", "check", str(root)]) == 1
    assert all(path.name in capsys.readouterr().out for path in broken[:1]) and len(FolderBenchmark(root).problems()) == len(broken)
