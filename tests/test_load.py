"""Load: many images, many names, large images, many damaged files. What takes minutes is slow, and leaves its figure
on the page of promises."""

import multiprocessing, time, tracemalloc
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from tiny import MODELS
from rim.apps import cli
from rim.measure.folders import FolderBenchmark, ToyboxBenchmark
from rim.measure.evaluation import evaluate
from rim.base.ledger import peak_memory
from rim.method.segmentation import Method
from rim.method.segmenter import RIM, match_features
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary

pytestmark = pytest.mark.promise(19)
fork = multiprocessing.get_context("fork")
TINY = dict(
    **MODELS,
    images_per_class=1,
    denoising_steps=1,
    subcategories=1,
    points_per_side=4,
    pred_iou_thresh=0,
    stability_score_thresh=0,
    image_size=32,
)


def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024  # MB


def apart(run, *args):
    "What `run` returns in a process of its own, so that its memory is its own."
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(run(*args)))
    process.start()
    sender.close()
    return process, receiver


class Large:
    "Images of a megabyte each, made when they are asked for."

    name, vocabulary = "large", Vocabulary.of("boat")

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return np.full((512, 683, 3), i, np.uint8), np.zeros((512, 683), np.uint8), f"picture-{i}"

    def check(self):
        pass


def test_pictures_that_are_measured_are_let_go(tmp_path):
    tracemalloc.start()
    try:
        evaluate(
            {"dark": Method(lambda image, _: (image.mean(2) < 20).astype(np.uint8), key={"m": "dark"})},
            Large(),
            Settings.from_profile("toybox", bootstrap=10),
            Store(tmp_path),
            False,
        )
        assert tracemalloc.get_traced_memory()[1] < 25 << 20, "a few images and their float copies, not forty"
    finally:
        tracemalloc.stop()


def many_images(n, root):
    "Evaluate them all; memory after a tenth of them and at the end, and the matrices that the report keeps."
    memory = []

    def bright(image, _):
        memory.append(resident())
        return (image.mean(2) > 180).astype(np.uint8)

    report = evaluate(
        {"bright": Method(bright, key={"m": "bright"})},
        ToyboxBenchmark(n, size=48),
        Settings.from_profile("toybox", bootstrap=10),
        Store(root),
        False,
    )
    return (
        time.process_time(),
        len(report.items),
        memory[len(memory) // 10],
        memory[-1],
        report.confusions["bright"].nbytes >> 20,
    )


@pytest.mark.slow  # minutes
def test_twenty_thousand_images(tmp_path, figure):
    n = 20_000
    process, receiver = apart(many_images, n, tmp_path)
    seconds, done, first, last, kept = receiver.recv()
    process.join()
    grown = last - first
    assert done == n and grown < 2 * kept + 20, "no image, label map or entry stays in memory"
    figure(
        f"{n} rendered scenes of 48 pixels in one evaluation, a threshold as the method: {seconds:.0f} s of "
        f"one core, {grown} MB more at the end than after a tenth, for the {kept} MB of confusion matrices "
        "that the report is made of"
    )


def long_run(n):
    rim = RIM(Settings.from_profile("toybox", images_per_class=2, denoising_steps=5))
    method, memory = rim.method("boat, tree, bird"), []
    for i in range(n):
        image, *_ = ToyboxBenchmark(n)[i]
        method(image)
        memory.append(resident())
    return memory


@pytest.mark.slow  # minutes
def test_memory_of_the_real_method_does_not_grow(figure):
    process, receiver = apart(long_run, 150)
    memory = receiver.recv()
    process.join()
    grown = int(np.mean(memory[-20:]) - np.mean(memory[20:40]))
    assert grown < 60
    figure(f"RIM on 150 scenes: {grown} MB more at the end than after thirty, {max(memory)} MB at most")


def many_names(n):
    rim, start = RIM(Settings.from_profile("toybox", **TINY)), time.process_time()
    bank = rim.bank_for([f"thing {i}" for i in range(n)], progress=False)
    built, memory = time.process_time() - start, peak_memory()
    references = bank.references(rim.settings)
    references.gram  # made once for all images
    start = time.process_time()
    found = match_features(torch.from_numpy(bank.foreground[:64]), references, rim.settings)
    return built, memory, time.process_time() - start, peak_memory(), int((found.labels == 1 + np.arange(64)).sum())


@pytest.mark.slow  # minutes
def test_five_thousand_names(figure):
    process, receiver = apart(many_names, 5000)
    built, memory, seconds, most, own = receiver.recv()
    process.join()
    assert own > 32 and most < 6000, "an image's own features are most like its class"
    figure(
        f"a bank of 5000 names, one tiny picture each: {built:.0f} s of one core, {memory} MB; matching 64 "
        f"regions with it: {seconds:.1f} s of one core, {most} MB at most"
    )


def large(picture, out):
    start = time.process_time()
    code = cli.main(
        [
            "segment",
            str(picture),
            "--classes",
            "boat, tree",
            "--out",
            str(out),
            "--set",
            "images_per_class=2",
            "--set",
            "denoising_steps=5",
        ]
    )
    return code, time.process_time() - start, peak_memory()


@pytest.mark.slow  # minutes
def test_a_picture_of_48_megapixels(tmp_path, figure):
    scene = ToyboxBenchmark(1)[0][0]
    Image.fromarray(scene).resize((8000, 6000)).save(tmp_path / "large.png")
    process, receiver = apart(large, tmp_path / "large.png", tmp_path / "out")
    code, seconds, most = receiver.recv()
    process.join()
    assert code == 0 and Image.open(tmp_path / "out/large.png").size == (8000, 6000) and most < 16_000
    figure(f"rim segment on 8000 x 6000 pixels: {seconds:.0f} s of one core, {most} MB at most")


DAMAGES = (
    lambda b: b[: len(b) // 2],
    lambda b: b"",
    lambda b: b"<html>not found</html>",
    lambda b: b[:40] + bytes(len(b) - 40),
)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    "A folder benchmark of a thousand scenes, every twentieth image damaged."
    root, scenes = tmp_path_factory.mktemp("thousand"), ToyboxBenchmark(1000, size=48)
    for name in ("images", "labels"):
        (root / name).mkdir()
    (root / "names.txt").write_text("background\n" + "".join(f"{name}\n" for name in scenes.vocabulary.names))
    for i in range(1000):
        image, truth, _ = scenes[i]
        Image.fromarray(image).save(root / f"images/{i:04}.png")
        Image.fromarray(truth).save(root / f"labels/{i:04}.png")
    broken = [root / f"images/{i:04}.png" for i in range(7, 1000, 20)]
    for k, path in enumerate(broken):
        path.write_bytes(DAMAGES[k % len(DAMAGES)](path.read_bytes()))
    return root, broken


def words_of(**settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.slow  # minutes
def test_a_folder_of_which_five_percent_are_damaged(capsys, tmp_path, thousand, figure):
    root, broken = thousand
    start = time.process_time()
    code = cli.main(
        [
            "segment",
            *map(str, sorted((root / "images").iterdir())),
            "--classes",
            "boat, tree",
            "--out",
            str(tmp_path / "out"),
            *words_of(**TINY),
        ]
    )
    seconds, said = time.process_time() - start, capsys.readouterr().err
    assert code != 0 and all(path.name in said for path in broken)
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 1000 - len(broken)
    figure(
        f"1000 images of 48 pixels, {len(broken)} of them damaged, tiny models: {seconds:.0f} s of one "
        f"core, {1000 - len(broken)} segmented, {len(broken)} named"
    )


@pytest.mark.slow  # minutes
def test_a_benchmark_of_which_five_percent_are_damaged_is_refused_at_once(capsys, tmp_path, thousand):
    root, broken = thousand
    assert cli.main(["evaluate", str(root), "--out", str(tmp_path / "out"), *words_of(**TINY, benchmark_images=0)]) == 2
    said = capsys.readouterr().err
    assert sum(path.name in said for path in broken) == 20 and "and 30 more" in said
    assert cli.main(["data", "check", str(root)]) == 1
    assert all(path.name in capsys.readouterr().out for path in broken[:1]) and len(
        FolderBenchmark(root).problems()
    ) == len(broken)
