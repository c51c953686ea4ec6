"""Evaluation: each method once per image, stored, resumable, checked first; the report says what the sums say."""

import os, shutil, signal, time
import numpy as np, pytest
from forked import forked
from tiny import MODELS
from rim.measure.evaluation import _PATIENCE, Part, Unmeasured, evaluate, shard
from rim.measure.report import Report
from rim.measure.results import _as_method, item_key, pack_confusion, unpack_confusion
from rim.base.ledger import VARIABLE, read_ledger
from rim.measure.metrics import confusion, mean_iou
from rim.method.segmentation import Method
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary


class Blocks:
    "Random images whose truth is in their red channel."

    name, vocabulary = "blocks", Vocabulary.of("a, b")

    def __init__(self, n=5):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 3, (n, 6, 8, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.images[i][..., 0], f"block-{i}"

    def check(self):
        pass


class Counter:
    def __init__(self):
        self.analysed, self.predicted = 0, 0

    def analyse(self, image):
        self.analysed += 1
        return image[..., 0]

    def knows(self, image, analysis):
        self.predicted += 1
        return analysis

    def guesses(self, image, analysis):
        self.predicted += 1
        return image[..., 1]

    def methods(self):
        return {
            "knows": Method(self.knows, self.analyse, {"m": "knows"}),
            "guesses": Method(self.guesses, self.analyse, {"m": "guesses"}),
        }


@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile("toybox", bootstrap=50)


def test_report(settings):
    report = evaluate(Counter().methods(), Blocks(), settings, progress=False)
    by_hand = sum(confusion(b[..., 1], b[..., 0], 3) for b in Blocks().images)
    assert (report.confusions["guesses"].sum(0) == by_hand).all() and report.items == tuple(
        f"block-{i}" for i in range(5)
    )
    rows = {r["method"]: r for r in report.rows}
    assert (
        rows["knows"]["mIoU"] == rows["knows"]["low"] == 100
        and rows["guesses"]["low"] <= rows["guesses"]["mIoU"] <= rows["guesses"]["high"]
    )
    assert rows["guesses"]["mIoU"] == pytest.approx(100 * mean_iou(by_hand))
    assert report.difference("knows", "guesses")[0] > 0 and list(report.per_class("knows").values()) == [1, 1, 1]
    worst = report.worst("guesses", 5)
    assert [v for *_, v in worst] == sorted(v for *_, v in worst) and worst[0][1] == f"block-{worst[0][0]}"
    assert "| knows | 100.0 |" in report.markdown() and report.to_csv().splitlines()[0] == "method,mIoU,low,high"


def test_analysis_is_shared(settings):
    counter = Counter()
    evaluate(counter.methods(), Blocks(), settings, progress=False)
    assert counter.analysed == 5 and counter.predicted == 10


def test_found_again(settings, tmp_path):
    counter, store = Counter(), Store(tmp_path)
    first = evaluate({"knows": counter.methods()["knows"]}, Blocks(), settings, store, False)
    both = evaluate(counter.methods(), Blocks(), settings, store, False)
    again = evaluate(counter.methods(), Blocks(), settings, store, False)
    assert (
        counter.predicted == 10
        and counter.analysed == 10
        and (both.confusions["guesses"] == again.confusions["guesses"]).all()
        and (first.confusions["knows"] == again.confusions["knows"]).all()
    )


@pytest.mark.promise(14)
def test_interrupted_and_resumed(settings, tmp_path):
    counter, store = Counter(), Store(tmp_path)
    methods, whole = counter.methods(), evaluate(Counter().methods(), Blocks(), settings, progress=False)

    def stops(image, analysis):
        if counter.predicted == 7:
            counter.predicted += 1
            raise KeyboardInterrupt
        return counter.guesses(image, analysis)

    methods["guesses"] = Method(stops, counter.analyse, {"m": "guesses"})
    with pytest.raises(KeyboardInterrupt, match="3 of 5 images are done; the same call goes on"):
        evaluate(methods, Blocks(), settings, store, False)
    resumed = evaluate(methods, Blocks(), settings, store, False)
    assert counter.predicted == 11 and all(
        (resumed.confusions[m] == whole.confusions[m]).all() for m in methods
    )  # ten, and the one that was interrupted


def failing_on(numbers, error=RuntimeError("no")):
    bad = [Blocks().images[i] for i in numbers]

    def fails(image, _):
        if any((image == b).all() for b in bad):
            raise error
        return image[..., 1]

    return {"guesses": Method(fails, key={"m": "guesses"})}


@pytest.mark.promise(15)
def test_a_failing_image_is_set_aside_and_named_and_the_others_are_done(settings, tmp_path, monkeypatch):
    store, whole = Store(tmp_path / "store"), evaluate(Counter().methods(), Blocks(), settings, progress=False)
    with pytest.raises(
        Unmeasured,
        match=r"1 of 5 images could not be measured and was excluded \('guesses' on 'block-1': RuntimeError: no\)",
    ):
        evaluate(failing_on([1]), Blocks(), settings, store, False)
    assert len(store.list("confusion")) == 4
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ledger"))
    report = evaluate(failing_on([1]), Blocks(), settings, store, False, keep_going=True)
    assert (
        report.items == ("block-0", "block-2", "block-3", "block-4")
        and (report.confusions["guesses"] == whole.confusions["guesses"][[0, 2, 3, 4]]).all()
    )
    assert (
        [a.index for a in report.aside] == [1]
        and "raise error" in report.aside[0].trace
        and "1 excluded" in report.markdown()
    )
    assert all(key == f"block-{index}" for index, key, _ in report.worst("guesses", 4)), "the index is the benchmark's"
    assert read_ledger(tmp_path / "ledger")["evaluation"] == [
        dict(benchmark="blocks", method="guesses", images=4, set_aside=1)
    ]
    report.write(tmp_path / "out")
    assert (
        "block-1" in (tmp_path / "out/report.md").read_text()
        and "Traceback" in (tmp_path / "out/set_aside.txt").read_text()
    )
    assert (
        evaluate(failing_on([]), Blocks(), settings, store, False).confusions["guesses"] == whole.confusions["guesses"]
    ).all(), "mended, it goes on"


@pytest.mark.promise(15)
def test_an_unreadable_image_is_set_aside(settings):
    class Torn(Blocks):
        def __getitem__(self, i):
            if i == 2:
                raise OSError("torn")
            return super().__getitem__(i)

    report = evaluate(Counter().methods(), Torn(), settings, progress=False, keep_going=True)
    assert (
        len(report.items) == 4
        and report.aside[0].item == "reading image 2"
        and "OSError: torn" in report.aside[0].error
    )


def test_what_fails_on_every_image_alike_is_no_matter_of_images(settings):
    calls = []

    def never(image, _):
        calls.append(1)
        raise FileNotFoundError("no weights")

    with pytest.raises(FileNotFoundError, match="no weights"):
        evaluate({"m": Method(never)}, Blocks(40), settings, progress=False, keep_going=True)
    assert len(calls) == _PATIENCE

    def differently(image, _):
        raise RuntimeError(len(calls := [*range(len(image))]) + int(image[0, 0, 0]) + int(image[0, 1, 0]))

    with pytest.raises(Unmeasured, match="40 of 40 images"):
        evaluate({"m": Method(differently)}, Blocks(40), settings, progress=False, keep_going=True)


@pytest.mark.promise(5)
def test_a_store_that_cannot_be_written_stops_the_run(settings, tmp_path, monkeypatch):
    store, counter = Store(tmp_path), Counter()

    def full(*_):
        raise OSError(28, "cannot write: No space left on device")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(OSError, match="No space"):
        evaluate(counter.methods(), Blocks(), settings, store, False, keep_going=True)
    assert counter.predicted == 1


@pytest.mark.promise(1)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_most_one_image_is_lost(settings, tmp_path, how):
    from rim.measure.folders import ToyboxBenchmark

    log, store = tmp_path / "log", Store(tmp_path / "store")

    def slowly(image, _):
        with open(log, "a") as lines:
            lines.write("called\n")
        time.sleep(0.05)
        return (image.mean(2) > 180).astype("uint8")

    def work():
        methods = {"slow": Method(slowly, key={"m": "slow"})}
        evaluate(methods, ToyboxBenchmark(60, size=64), settings, store, progress=False)

    process, deadline = forked(work, tmp_path / "said"), time.monotonic() + 120
    while (
        not (log.exists() and len(log.read_text().splitlines()) >= 12)
        and time.monotonic() < deadline
        and process.is_alive()
    ):
        time.sleep(0.005)
    os.kill(process.pid, how)
    process.join()
    called, kept = len(log.read_text().splitlines()), len(store.list("confusion"))
    assert process.exitcode == -how and 12 <= called < 60 and called - kept <= 1
    again = []

    def method(note):
        return {
            "slow": Method(lambda image, _: note.append(1) or (image.mean(2) > 180).astype("uint8"), key={"m": "slow"})
        }

    resumed = evaluate(method(again), ToyboxBenchmark(60, size=64), settings, store, False)
    assert len(again) == 60 - kept
    whole = evaluate(method([]), ToyboxBenchmark(60, size=64), settings, progress=False)
    assert resumed.summary() == whole.summary() and (resumed.confusions["slow"] == whole.confusions["slow"]).all()


@pytest.mark.parametrize("stores", ["one", "one each"])
def test_shards_merge_to_exactly_the_whole(settings, tmp_path, stores):
    whole, counter = evaluate(Counter().methods(), Blocks(11), settings, progress=False), Counter()
    for i in (2, 3, 1):
        part = evaluate(
            counter.methods(),
            shard(Blocks(11), f"{i}/3"),
            settings,
            Store(tmp_path / (f"{i}" if stores == "one each" else "all")),
            False,
        )
        assert (
            part.items == tuple(f"block-{k}" for k in range(i - 1, 11, 3))
            and part.benchmark == f"blocks, shard {i} of 3"
        )
        if stores == "one each":
            shutil.copytree(tmp_path / f"{i}", tmp_path / "all", dirs_exist_ok=True)
    merged, used = evaluate(counter.methods(), Blocks(11), settings, Store(tmp_path / "all"), False), counter.predicted
    assert used == 22, "merging computes nothing"
    merged.write(tmp_path / "merged")
    whole.write(tmp_path / "whole")
    files = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert files == ["classes.csv", "images.csv", "methods.csv", "report.md"] and all(
        (tmp_path / "merged" / f).read_bytes() == (tmp_path / "whole" / f).read_bytes() for f in files
    )


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(ValueError, match="i/n with i from 1 to n"):
        shard(Blocks(), text)


SLURM = dict(
    SLURM_ARRAY_TASK_ID="6",
    SLURM_ARRAY_TASK_MIN="2",
    SLURM_ARRAY_TASK_MAX="8",
    SLURM_ARRAY_TASK_COUNT="4",
    SLURM_ARRAY_TASK_STEP="2",
)


@pytest.mark.parametrize(
    "environment, part",
    [
        (dict(RANK="0", WORLD_SIZE="1"), "1 of 1"),
        (dict(RANK="2", WORLD_SIZE="4"), "3 of 4"),
        (SLURM, "3 of 4"),
        (SLURM | dict(RANK="1", WORLD_SIZE="2"), "6 of 8"),
    ],
)
def test_a_shard_reads_who_it_is(monkeypatch, environment, part):
    for name in (*SLURM, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert (
        shard(Blocks(11), "auto").name == f"blocks, shard {part}"
        and shard(Blocks(11), "1/2").name == "blocks, shard 1 of 2"
    ), "only when asked to"


@pytest.mark.parametrize(
    "environment, match",
    [
        ({}, "none of them is set"),
        (dict(RANK="1"), "WORLD_SIZE, which is not set"),
        (dict(RANK="x", WORLD_SIZE="2"), "RANK must be an integer: got 'x'"),
        (dict(RANK="2", WORLD_SIZE="2"), "below the number of shards: got 2 of 2"),
        (SLURM | dict(SLURM_ARRAY_TASK_MAX="9"), "without gaps"),
    ],
)
def test_a_shard_that_cannot_know_who_it_is_says_why(monkeypatch, environment, match):
    for name in (*SLURM, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=match):
        shard(Blocks(11), "auto")


def test_the_next_image_is_read_meanwhile_and_never_more_than_one(settings):
    seen, read, used = [], [], []

    class Watched(Blocks):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    def predict(image, _):
        deadline = time.monotonic() + 5
        while len(read) < min(len(used) + 2, 6) and time.monotonic() < deadline:
            time.sleep(0.001)
        used.append(1)
        seen.append(len(read))
        return image[..., 0]

    evaluate({"m": Method(predict)}, Watched(6), settings, progress=False)
    assert seen == [2, 3, 4, 5, 6, 6] and read == list(range(6))


def test_a_run_from_the_store_reads_as_the_first_did(settings, tmp_path):
    "Records come back from the store with sorted names; a report shows no difference."
    from rim.method.segmentation import Segmentation

    counts = Method(
        lambda image, _: Segmentation(image, image[..., 0].astype(np.int32), Blocks.vocabulary, (), {"z": 1, "a": 2}),
        key={"m": "counts"},
    )
    first, again = (evaluate({"counts": counts}, Blocks(), settings, Store(tmp_path), False) for _ in range(2))
    assert first.summary() == again.summary() and list(first.total("counts")) == ["a", "z"]


def test_other_words_for_the_classes(settings):
    words = Part(Blocks(), words=Vocabulary.of("boat, tree"))
    report = evaluate(Counter().methods(), words, settings, progress=False)
    assert report.labels == ("background", "boat", "tree")
    with pytest.raises(ValueError, match="must name its 2 classes in their order: got 3 names"):
        Part(Blocks(), words=Vocabulary.of("a, b, c"))


def test_class_rows_hold_their_value_and_know_what_they_were_measured_on(settings):
    report = evaluate(Counter().methods(), Blocks(), settings, progress=False)
    for row, value in zip(report.class_rows("guesses"), report.per_class("guesses").values()):
        assert (
            row["low"] <= row["IoU"] <= row["high"]
            and row["IoU"] == pytest.approx(100 * value)
            and row["images"] == 5
            and row["scored"]
        )
    red = Blocks().images[..., 0]
    assert [row["truth"] for row in report.class_rows("knows")] == [int((red == c).sum()) for c in range(3)]
    absent = Report("b", ("a", "b"), ("x",), {"m": np.array([[[4, 0], [0, 0]]])}, skip=(0,))
    rows = absent.class_rows("m")
    assert (
        rows[1]["IoU"] is None
        and rows[0]["scored"] is False
        and "| b | – |" in absent.summary()
        and "(not scored)" in absent.summary()
    )


def test_original_size_ignored_pixels_and_labels_out_of_range(settings, tmp_path, rng):
    "A folder benchmark of odd sizes, with 255 in its label maps; then one with a label too high."
    from PIL import Image
    from rim.measure.folders import FolderBenchmark

    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "names.txt").write_text("background\nred\n")
    for k, (h, w) in enumerate([(7, 31), (64, 5), (1, 9)]):
        labels = rng.integers(0, 2, (h, w)).astype(np.uint8)
        labels[0, 0] = 255
        Image.fromarray(np.repeat((labels == 1)[..., None] * np.uint8(200), 3, 2)).save(tmp_path / f"images/{k}.png")
        Image.fromarray(labels).save(tmp_path / f"labels/{k}.png")
    red, calls = Method(lambda image, _: calls.append(1) or (image[..., 0] > 100).astype(np.uint8)), []
    report = evaluate({"red": red}, FolderBenchmark(tmp_path), settings, progress=False)
    assert report.rows[0]["mIoU"] == 100 and report.confusions["red"].sum((1, 2)).tolist() == [
        7 * 31 - 1,
        64 * 5 - 1,
        8,
    ]
    labels[0, 1] = 2
    Image.fromarray(labels).save(tmp_path / "labels/2.png")
    calls.clear()
    with pytest.raises(ValueError, match=r"labels must lie in 0..1 or be 255: .*2.png contains \[2\]"):
        evaluate({"red": red}, FolderBenchmark(tmp_path), settings, progress=False)
    assert not calls


def test_damaged_result_is_computed_again(settings, tmp_path):
    counter, store = Counter(), Store(tmp_path)
    whole = evaluate(counter.methods(), Blocks(), settings, store, False)
    path = next((tmp_path / "confusion").glob("*/*.safetensors"))
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        again = evaluate(counter.methods(), Blocks(), settings, store, False)
    assert counter.predicted == 11 and all((again.confusions[m] == whole.confusions[m]).all() for m in whole.confusions)


def test_keys(tiny_image):
    truth, method = np.zeros((24, 32), np.uint8), Method(None, key={"m": 1})
    key, other = item_key(tiny_image, truth, 3, method), truth.copy()
    other[0, 0] = 1
    assert key == item_key(tiny_image.copy(), truth.copy(), 3, method)
    assert key not in (
        item_key(tiny_image, other, 3, method),
        item_key(255 - tiny_image, truth, 3, method),
        item_key(tiny_image, truth, 4, method),
        item_key(tiny_image, truth, 3, Method(None, key={"m": 2})),
    )


@pytest.mark.parametrize(
    "predict, match",
    [(lambda i, _: i[:1, :, 0], "image's size"), (lambda i, _: i[..., 0] + 9, "prediction must be in 0..2")],
)
def test_wrong_predictions_are_errors(settings, predict, match):
    with pytest.raises(ValueError, match=match):
        evaluate({"m": Method(predict)}, Blocks(), settings, progress=False)


@pytest.mark.promise(8)
def test_benchmark_is_checked_first(settings):
    class Bad(Blocks):
        def check(self):
            raise ValueError("label 9 in block-2")

    counter = Counter()
    with pytest.raises(ValueError, match="label 9"):
        evaluate(counter.methods(), Bad(), settings, progress=False)
    assert counter.analysed == 0


def test_ignored_pixels(settings):
    class Ignored(Blocks):
        def __getitem__(self, i):
            image, truth, key = super().__getitem__(i)
            return image, np.where(truth == 2, 255, truth).astype(np.uint8), key

    report = evaluate({"f": lambda image: image[..., 0]}, Ignored(), settings, progress=False)
    assert report.confusions["f"].sum() == (Blocks().images[..., 0] != 2).sum()


def test_nothing_to_do(settings):
    with pytest.raises(ValueError, match="needs methods"):
        evaluate({}, Blocks(), settings)
    with pytest.raises(ValueError, match="must be a Method"):
        _as_method(3, Blocks.vocabulary)


def test_packing(rng):
    matrix = rng.integers(0, 3, (7, 7)) * 10**10
    assert (unpack_confusion(pack_confusion(matrix), 7) == matrix).all()


def test_totals():
    report = Report(
        "b",
        ("a",),
        ("x", "y"),
        {"m": np.ones((2, 1, 1), int)},
        {"m": ({"proposals": 3, "uncovered": 0.5}, {"proposals": 4})},
    )
    assert report.total("m") == {"proposals": 7}, "a share is no count"


def test_segmenters_take_part(settings, tmp_path):
    from rim.measure.rivals import ClipCrop
    from rim.method.segmenter import RIM, VARIANTS

    tiny = settings.replace(
        **MODELS,
        images_per_class=1,
        denoising_steps=1,
        subcategories=1,
        points_per_side=2,
        pred_iou_thresh=0,
        stability_score_thresh=0,
    )
    rim, store = RIM(tiny), Store(tmp_path)
    bank = rim.bank_for("a, b", progress=False)
    rows = {"clip": ClipCrop(tiny, rim), **{name: rim.method("a, b", bank, **v) for name, v in VARIANTS.items()}}
    counted, real = [], rim.analyser.analyse
    rim.analyser.analyse = lambda image: counted.append(1) or real(image)
    first, again = (evaluate(rows, Blocks(2), tiny, store, False) for _ in range(2))
    assert (
        len(counted) == 2
        and len(first.rows) == 5
        and all((first.confusions[m] == again.confusions[m]).all() for m in rows)
        and len(store.list("confusion")) == 10
    )
