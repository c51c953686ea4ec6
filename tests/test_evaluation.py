"""Evaluation: each method once per image, stored, resumable, checked first; the report says what the sums say."""
import numpy as np, pytest
from rim.evaluation import Report, as_method, evaluate, item_key, pack_confusion, unpack_confusion
from rim.metrics import confusion, mean_iou
from rim.segmentation import Method
from rim.settings import Settings
from rim.store import Store
from rim.vocabulary import Vocabulary

class Blocks:
    "Random images whose truth is in their red channel."
    name, vocabulary = "blocks", Vocabulary.of("a, b")
    def __init__(self, n=5):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 3, (n, 6, 8, 3), dtype=np.uint8)
    def __len__(self): return len(self.images)
    def __getitem__(self, i): return self.images[i], self.images[i][..., 0], f"block-{i}"
    def check(self): pass

class Counter:
    def __init__(self): self.analysed, self.predicted = 0, 0
    def analyse(self, image): self.analysed += 1; return image[..., 0]
    def knows(self, image, analysis): self.predicted += 1; return analysis
    def guesses(self, image, analysis): self.predicted += 1; return image[..., 1]
    def methods(self): return {"knows": Method(self.knows, self.analyse, {"m": "knows"}), "guesses": Method(self.guesses, self.analyse, {"m": "guesses"})}

@pytest.fixture(scope="module")
def settings(): return Settings.from_profile("toybox", bootstrap=50)

def test_report(settings):
    report = evaluate(Counter().methods(), Blocks(), settings, progress=False)
    by_hand = sum(confusion(b[..., 1], b[..., 0], 3) for b in Blocks().images)
    assert (report.confusions["guesses"].sum(0) == by_hand).all() and report.items == tuple(f"block-{i}" for i in range(5))
    rows = {r["method"]: r for r in report.rows}
    assert rows["knows"]["mIoU"] == rows["knows"]["low"] == 100 and rows["guesses"]["low"] <= rows["guesses"]["mIoU"] <= rows["guesses"]["high"]
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
    assert counter.predicted == 10 and counter.analysed == 10 and (both.confusions["guesses"] == again.confusions["guesses"]).all() and (first.confusions["knows"] == again.confusions["knows"]).all()

def test_interrupted_and_resumed(settings, tmp_path):
    counter, store = Counter(), Store(tmp_path)
    methods, whole = counter.methods(), evaluate(Counter().methods(), Blocks(), settings, progress=False)
    def stops(image, analysis):
        if counter.predicted == 7: counter.predicted += 1; raise KeyboardInterrupt
        return counter.guesses(image, analysis)
    methods["guesses"] = Method(stops, counter.analyse, {"m": "guesses"})
    with pytest.raises(KeyboardInterrupt, match="3 of 5 images are done; the same call goes on"): evaluate(methods, Blocks(), settings, store, False)
    resumed = evaluate(methods, Blocks(), settings, store, False)
    assert counter.predicted == 11 and all((resumed.confusions[m] == whole.confusions[m]).all() for m in methods)  # ten, and the one that was interrupted

def test_an_error_leaves_what_is_done(settings, tmp_path):
    store, bad = Store(tmp_path), Blocks()
    def fails(image, _):
        if (image == bad.images[3]).all(): raise RuntimeError("no")
        return image[..., 0]
    with pytest.raises(RuntimeError) as error: evaluate({"fails": Method(fails, key={"m": 1})}, bad, settings, store, False)
    assert "'fails' on 'block-3'" in error.value.__notes__[0] and len(store.list("confusion")) == 3

def test_damaged_result_is_computed_again(settings, tmp_path):
    counter, store = Counter(), Store(tmp_path)
    whole = evaluate(counter.methods(), Blocks(), settings, store, False)
    path = next((tmp_path / "confusion").glob("*/*.safetensors")); path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"): again = evaluate(counter.methods(), Blocks(), settings, store, False)
    assert counter.predicted == 11 and all((again.confusions[m] == whole.confusions[m]).all() for m in whole.confusions)

def test_keys(tiny_image):
    truth, method = np.zeros((24, 32), np.uint8), Method(None, key={"m": 1})
    key, other = item_key(tiny_image, truth, 3, method), truth.copy()
    other[0, 0] = 1
    assert key == item_key(tiny_image.copy(), truth.copy(), 3, method)
    assert key not in (item_key(tiny_image, other, 3, method), item_key(255 - tiny_image, truth, 3, method), item_key(tiny_image, truth, 4, method), item_key(tiny_image, truth, 3, Method(None, key={"m": 2})))

@pytest.mark.parametrize("predict, match", [(lambda i, _: i[:1, :, 0], "image's size"), (lambda i, _: i[..., 0] + 9, "prediction must be in 0..2")])
def test_wrong_predictions_are_errors(settings, predict, match):
    with pytest.raises(ValueError, match=match): evaluate({"m": Method(predict)}, Blocks(), settings, progress=False)

def test_benchmark_is_checked_first(settings):
    class Bad(Blocks):
        def check(self): raise ValueError("label 9 in block-2")
    counter = Counter()
    with pytest.raises(ValueError, match="label 9"): evaluate(counter.methods(), Bad(), settings, progress=False)
    assert counter.analysed == 0

def test_ignored_pixels(settings):
    class Ignored(Blocks):
        def __getitem__(self, i): image, truth, key = super().__getitem__(i); return image, np.where(truth == 2, 255, truth).astype(np.uint8), key
    report = evaluate({"f": lambda image: image[..., 0]}, Ignored(), settings, progress=False)
    assert report.confusions["f"].sum() == (Blocks().images[..., 0] != 2).sum()

def test_nothing_to_do(settings):
    with pytest.raises(ValueError, match="needs methods"): evaluate({}, Blocks(), settings)
    with pytest.raises(ValueError, match="must be a Method"): as_method(3, Blocks.vocabulary)

def test_packing(rng):
    matrix = rng.integers(0, 3, (7, 7)) * 10**10
    assert (unpack_confusion(pack_confusion(matrix), 7) == matrix).all()

def test_totals():
    report = Report("b", ("a",), ("x", "y"), {"m": np.ones((2, 1, 1), int)}, {"m": ({"proposals": 3, "uncovered": 0.5}, {"proposals": 4})})
    assert report.total("m") == {"proposals": 7, "uncovered": 0.5}

def test_segmenters_take_part(settings, tmp_path):
    from rim.rivals import ClipCrop
    from rim.segmenter import RIM, VARIANTS
    tiny = settings.replace(pretrained=False, diffusion="tiny:diffusion", sam="tiny:sam", dino="tiny:dino", clip="tiny:clip", images_per_class=1, denoising_steps=1, subcategories=1,
                            points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    rim, store = RIM(tiny), Store(tmp_path)
    bank = rim.bank_for("a, b", progress=False)
    rows = {"clip": ClipCrop(tiny, rim), **{name: rim.method("a, b", bank, **v) for name, v in VARIANTS.items()}}
    counted, real = [], rim.analyser.analyse
    rim.analyser.analyse = lambda image: counted.append(1) or real(image)
    first, again = (evaluate(rows, Blocks(2), tiny, store, False) for _ in range(2))
    assert len(counted) == 2 and len(first.rows) == 5 and all((first.confusions[m] == again.confusions[m]).all() for m in rows) and len(store.list("confusion")) == 10
