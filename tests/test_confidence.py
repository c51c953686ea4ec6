"""Confidence and calibration: the curve, margins and unknown pixels against loops; reliability, coverage and the fit by
their laws."""

import json
import numpy as np, pytest, torch
from hypothesis import given, settings as budget, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from rim.base.settings import Settings
from rim.measure.calibration import (
    Answers,
    accuracy_at,
    _answers_of,
    calibration_error,
    collect,
    error_interval,
    fate_intervals,
    fates,
    fit_curve,
    half_lack,
    isotonic,
    mean_interval,
    one_lacks,
    reliability,
    _risk_coverage,
    _without_classes,
)
from rim.measure.metrics import draw_weights
from rim.measure.results import measure
from rim.method.confidence import Curve, curves_of, margins, nearness, mark_unknown
from rim.method.matcher import Matcher
from rim.method.prototypes import prototypes
from rim.method.overlay import draw_overlay
from rim.method.proposals import Proposals
from rim.method.regions import Regions
from rim.method.segmentation import Method, Region, Segmentation, label_image
from rim.method.segmenter import RIM
from rim.method.vocabulary import UNKNOWN, Vocabulary, unknown_label, unscored_label
from test_matcher import bank_of

SHARE = st.floats(0, 1, width=32)
CURVE = Curve(-1.0, 20.0, 5.0, 1.0, 10.0, 0.9)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_margins_are_those_of_a_loop(n, classes, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.uniform(-1, 1, (n, classes)), rng.integers(0, classes, n)
    margin = margins(scores, labels)
    for i in range(n):
        others = [scores[i, c] for c in range(classes) if c != labels[i]] or [-1]
        assert margin[i] == scores[i, labels[i]] - max(others)


@given(st.floats(-2, 2), st.floats(-2, 2), st.booleans())
def test_a_larger_margin_is_never_less_sure(a, b, ground):
    for rising in ([min(a, b), max(a, b)], 0.1), (0.1, [min(a, b), max(a, b)]):
        low, high = CURVE(*rising, ground)
        assert 0 <= low <= high <= 1
    assert CURVE(a, b, True) == CURVE(a, 0, True) and CURVE(a, np.nan) == CURVE(a, 0)


@given(st.integers(0, 99), st.booleans(), st.sampled_from([(1, 5, 12), (1, 1, 4), (2, 3, 1)]))
def test_nearness_compares_with_what_each_reference_scores_among_the_others(seed, background, n):
    bank, matcher = bank_of(seed, n=n), Matcher(Settings.from_profile("toybox", match_fusion=""))
    known, settings = prototypes(bank, matcher.settings, background), matcher.settings
    expected = []
    for label in range(known.labels):
        own = known.vectors[known.owner == label].double().numpy()
        roots = settings.match_negatives if background and label == 0 else settings.match_references
        k = max(1, min(len(own) - 1, round(roots * (len(own) - 1) ** 0.5)))
        found = [sorted(float(a @ b) for j, b in enumerate(own) if j != i)[-k:] for i, a in enumerate(own)]
        expected.append(np.mean([np.mean(f) for f in found]) if len(own) > 1 else np.nan)
    names = expected[background:]
    mean = np.nanmean(names)
    expected[background:] = [mean if np.isnan(v) else v for v in names]
    assert matcher.typical(bank, background) == pytest.approx(expected, abs=1e-5)
    scores, labels = np.random.default_rng(seed).uniform(size=(4, known.labels)), np.arange(4) % known.labels
    near = nearness(scores, labels, expected)
    assert near == pytest.approx([scores[i, c] - expected[c] for i, c in enumerate(labels)])


def test_where_no_class_has_two_references_nearness_tells_nothing():
    bank, matcher = bank_of(0, n=(1, 1, 1)), Matcher(scene(0)[0].settings)
    assert np.isnan(matcher.typical(bank)[1:]).all()
    scores, labels = np.random.default_rng(0).uniform(size=(5, 4)), np.array([1, 2, 3, 1, 0])
    sure = matcher.confidence(scores, labels, bank)
    assert sure == pytest.approx(CURVE(margins(scores, labels), 0, labels == 0))


@pytest.mark.promise(61)
@given(arrays(np.float32, (4, 5), elements=SHARE), SHARE, st.sampled_from([3, 254, 255, 400]))
def test_unknown_pixels_are_those_below_and_no_class(confidence, below, classes):
    labels = np.arange(20).reshape(4, 5) % classes
    marked = mark_unknown(labels, confidence, below, classes)
    assert ((marked == unknown_label(classes)) == (confidence < below)).all()
    assert (marked[confidence >= below] == labels[confidence >= below]).all()
    assert unknown_label(classes) >= classes and unknown_label(classes) != unscored_label(classes)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99))
def test_reliability_keeps_weight_confidence_and_hits(n, bins, seed):
    rng = np.random.default_rng(seed)
    confidence, right, weight = rng.uniform(0, 1, n), rng.integers(0, 2, n).astype(float), rng.uniform(0.1, 1, n)
    sure, hit, share = reliability(confidence, right, weight, bins)
    some = share > 0
    assert share.sum() == pytest.approx(1) and (np.isnan(sure) == ~some).all()
    assert (share[some] * sure[some]).sum() == pytest.approx(np.average(confidence, weights=weight))
    assert (share[some] * hit[some]).sum() == pytest.approx(np.average(right, weights=weight))
    gap = abs(np.average(confidence, weights=weight) - np.average(right, weights=weight))
    assert gap - 1e-9 <= calibration_error(confidence, right, weight, bins) <= 1
    assert calibration_error(right, right, weight, bins) == 0


def some_answers(n, images, lists, seed):
    "Random answers of images that have several lists each."
    rng = np.random.default_rng(seed)
    image, number = rng.integers(0, images, n), rng.integers(0, lists, n)
    right, weight, lacking = rng.integers(0, 2, n).astype(float), rng.uniform(0.1, 1, n), rng.uniform(0, 1, n)
    ground = rng.uniform(size=n) < 0.5
    own = Answers(rng.normal(size=n), np.zeros(n), ground, right, weight, lacking, image * lists + number, image)
    return own, rng.uniform(0, 1, n)


@budget(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_intervals_are_those_of_samples_of_the_images_written_out(n, images, lists, seed):
    answers, sure = some_answers(n, images, lists, seed)
    names, weights = np.unique(answers.image), draw_weights(len(np.unique(answers.image)), 30, seed)
    samples = [
        np.concatenate([np.repeat(np.flatnonzero(answers.image == i), k) for i, k in zip(names, row)])
        for row in weights
    ]

    def written_out(statistic, estimate):
        low, high = np.percentile([statistic(some) for some in samples], [2.5, 97.5])
        return min(low, estimate), estimate, max(high, estimate)

    error = lambda some: calibration_error(sure[some], answers.right[some], answers.weight[some])
    every = np.arange(n)
    assert error_interval(sure, answers, 30, seed) == pytest.approx(written_out(error, error(every)))
    mean = lambda some: np.average(answers.right[some], weights=answers.weight[some])
    found = mean_interval(answers.right, answers.weight, answers.image, 30, seed)
    assert found == pytest.approx(written_out(mean, mean(every)))
    values = fates(answers, sure, 0.5)
    for k, found in enumerate(fate_intervals(answers, sure, 0.5, 30, seed)):
        part = [fates(answers_of(answers, answers.image == i), sure[answers.image == i], 0.5)[k] for i in names]
        held = [len(np.unique(answers.number[answers.image == i])) for i in names]
        drawn = [np.average(part, weights=held * row) for row in weights]
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found == pytest.approx((min(low, values[k]), values[k], max(high, values[k])))


def answers_of(answers, where):
    return Answers(*(getattr(answers, name)[where] for name in Answers.__dataclass_fields__))


def test_intervals_of_nothing_and_of_one_image():
    none, _ = some_answers(0, 1, 1, 0)
    assert error_interval(np.zeros(0), none) == (0, 0, 0)
    assert np.isnan(mean_interval(none.right, none.weight, none.image)).all()
    assert all(np.isnan(span).all() for span in fate_intervals(none, np.zeros(0)))
    one, sure = some_answers(30, 1, 2, 0)
    low, error, high = error_interval(sure, one)
    assert low == pytest.approx(error) == high, "one image can't vary"


@given(st.integers(1, 40), st.integers(0, 99))
def test_coverage_is_that_of_a_loop_whatever_the_order(n, seed):
    rng = np.random.default_rng(seed)
    confidence, right, weight = rng.integers(0, 5, n) / 4, rng.uniform(0, 1, n), rng.uniform(0.1, 1, n)
    levels, coverage, accuracy = _risk_coverage(confidence, right, weight)
    order = rng.permutation(n)
    for a, b in zip(_risk_coverage(confidence[order], right[order], weight[order]), (levels, coverage, accuracy)):
        assert np.allclose(a, b)
    for level, covered, hit in zip(levels, coverage, accuracy):
        kept = confidence >= level
        assert covered == pytest.approx(weight[kept].sum() / weight.sum())
        assert hit == pytest.approx(np.average(right[kept], weights=weight[kept]))
    assert coverage[-1] == pytest.approx(1)
    assert accuracy_at(1, confidence, right, weight) == pytest.approx(np.average(right, weights=weight))


@budget(max_examples=10, deadline=None)
@given(
    st.tuples(st.floats(-1, 1), st.floats(5, 25), st.floats(0, 20)),
    st.tuples(st.floats(-1, 1), st.floats(5, 25)),
    st.integers(0, 99),
)
def test_the_fit_finds_the_curve_that_made_the_answers(names, behind, seed):
    rng, n = np.random.default_rng(seed), 20000
    made, margin, ground = Curve(*names, *behind, 0.7), rng.normal(0, 0.2, n), rng.uniform(size=n) < 0.5
    near = rng.normal(-0.1, 0.2, n)
    right = (rng.uniform(size=n) < made(margin, near, ground)).astype(float)
    margin[:500], right[:500], ground[:500] = np.nan, np.repeat([1.0, 0.0], [350, 150]), True
    answers = Answers(margin, near, ground, right, rng.uniform(0.5, 1.5, n), np.zeros(n), np.zeros(n, int))
    found = fit_curve(answers)
    assert abs(found.bias - names[0]) < 0.3 and abs(found.margin - names[1]) < 0.15 * names[1] + 0.5
    assert abs(found.nearness - names[2]) < 0.15 * names[2] + 1
    assert abs(found.ground_bias - behind[0]) < 0.3 and abs(found.ground_margin - behind[1]) < 0.15 * behind[1] + 0.5
    assert abs(found.uncovered - 0.7) < 0.06
    sure = answers.confidence(found)
    assert calibration_error(sure, right, answers.weight) < 0.03
    steps = isotonic(answers, sure)(np.linspace(0, 1, 20))
    assert (np.diff(steps) >= 0).all()


def scene(seed, background=True):
    "A matcher with a curve, regions of 8 x 8 pixels, a bank and a ground truth."
    rng = np.random.default_rng(seed)
    settings = Settings.from_profile("toybox", match_fusion="", confidence_curve="-1,20,5,1,10,0.9;-2,10,3,0,5")
    masks = rng.uniform(size=(5, 8, 8)) < 0.4
    masks[:, 0, 0] = True
    boxes = np.tile([0.0, 0, 7, 7], (5, 1))
    features = torch.from_numpy(rng.normal(size=(5, 8)).astype(np.float32))
    features[3] = torch.nan
    grid = torch.from_numpy(rng.normal(size=(8, 2, 2)).astype(np.float32))
    regions = Regions(Proposals(masks, boxes, np.ones(5), np.ones(5)), features, grid)
    truth = rng.integers(0, 3 + background, (8, 8))
    truth[:2] = 255
    return Matcher(settings), regions, bank_of(seed), truth


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("voting", ["mean", "smallest"])
def test_each_pixel_has_the_confidence_of_the_scores_that_named_it(background, voting):
    matcher, regions, bank, _ = scene(1, background)
    matcher = Matcher(matcher.settings.replace(match_voting=voting, match_presence=0))
    found = matcher.match(regions, bank, background)
    labels, sure = matcher.label_pixels(regions, found, bank, (8, 8), background)
    patches = matcher.scores(regions.grid.flatten(1).T, bank, False).numpy()
    for y in range(8):
        for x in range(8):
            over = [i for i in range(5) if regions.proposals.masks[i, y, x] and found.labels[i] >= 0]
            if voting == "smallest":
                over = sorted(over, key=lambda i: (regions.proposals.areas[i], -i))[:1]
            scores = found.scores[over].mean(0) if over else patches[y // 4 * 2 + x // 4]
            if not over and background:
                assert labels[y, x] == 0 and sure[y, x] == np.float32(0.9)
                continue
            assert labels[y, x] == scores.argmax()
            ground = background and scores.argmax() == 0
            near = scores.max() - matcher.typical(bank, background)[scores.argmax()]
            expected = float(CURVE(margins(scores[None], [scores.argmax()])[0], near, ground))
            assert sure[y, x] == pytest.approx(expected)


def test_answers_count_every_scored_pixel_once():
    matcher, regions, bank, truth = scene(2)
    pixels, own = _answers_of(matcher, regions, truth, bank)
    found = matcher.match(regions, bank)
    labels, sure = matcher.label_pixels(regions, found, bank, (8, 8))
    scored = truth < 4
    assert pixels.weight.sum() == pytest.approx(1)
    assert np.average(pixels.right, weights=pixels.weight) == pytest.approx((labels == truth)[scored].mean())
    mean = np.average(pixels.confidence(matcher.curve), weights=pixels.weight)
    assert mean == pytest.approx(sure[scored].mean(), abs=1e-6) and len(own.right) == 4
    result = matcher.predict(np.zeros((8, 8, 3), np.uint8), regions, Vocabulary(bank.names), bank)
    shown = sorted(r.confidence for r in result.regions)
    assert shown == pytest.approx(sorted(own.confidence(matcher.region_curve).tolist()), abs=1e-6)


@given(arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 4, 255])), st.sets(st.integers(1, 4)))
def test_what_a_list_lacks_is_background_in_its_ground_truth(truth, lacking):
    kept = [c for c in range(5) if c not in lacking]
    found = _without_classes(truth, sorted(lacking), 5)
    for a, b in zip(truth.flat, found.flat):
        assert b == (255 if a == 255 else 0 if a in lacking else kept.index(a))


class Scenes:
    "Two images of random regions and a bank of three classes."

    vocabulary = Vocabulary(bank_of(0).names)

    def __init__(self):
        self.parts = [scene(5), scene(6)]

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, i):
        return np.full((1, 1), i), self.parts[i][3], f"scene {i}"


def test_lists_share_an_images_weight_and_name_as_their_banks_do():
    scenes, bank = Scenes(), bank_of(0)
    matcher = scenes.parts[0][0]
    matcher.analyse = lambda image: scenes.parts[int(image[0, 0])][1]
    pixels, regions = collect(matcher, scenes, bank, one_lacks)
    held = [np.setdiff1d(np.unique(scenes[i][1]), [0, 255]).tolist() for i in range(2)]
    assert all(held) and len(np.unique(pixels.number)) == sum(map(len, held))
    assert [len(np.unique(pixels.number[pixels.image == i])) for i in range(2)] == [len(some) for some in held]
    assert pixels.weight.sum() == pytest.approx(2) and regions.weight.sum() == pytest.approx(2)
    sure, numbers = pixels.confidence(matcher.curve), iter(range(9))
    shares = []
    for i, label in [(i, label) for i in range(2) for label in held[i]]:
        truth, own = scenes[i][1], next(numbers) == pixels.number
        less = bank.subset([n for n in bank.names if n != scenes.vocabulary.labels[label]])
        named = matcher.predict(np.zeros((8, 8, 3), np.uint8), scenes.parts[i][1], Vocabulary(less.names), less)
        there, unknown = truth == label, named.confidence < 0.5
        assert pixels.lacking[own].sum() == pytest.approx(there.sum() / (truth < 4).sum())
        right = named.labels == _without_classes(truth, [label], 4)
        assert np.average(pixels.right[own], weights=pixels.weight[own]) == pytest.approx(right[truth < 4].mean())
        kinds = ~unknown & (named.labels == 0), ~unknown & (named.labels > 0), unknown
        shares.append([kind[there].mean() for kind in kinds])
    assert fates(pixels, sure, 0.5) == pytest.approx(np.mean(shares, 0), abs=1e-6)
    whole, _ = collect(matcher, scenes, bank)
    assert not whole.lacking.any() and np.isnan(fates(whole, whole.confidence(matcher.curve))).all()


@given(st.integers(2, 12), st.booleans(), st.integers(0, 99))
def test_half_of_the_names_are_left_out_and_never_the_background(n, background, number):
    words = Vocabulary(tuple(f"n{i}" for i in range(n)), background=background)
    (lacking,) = half_lack([], words, number)
    assert len(set(lacking)) == n // 2 and half_lack([], words, number) == [lacking]
    assert all(background <= label < len(words.labels) for label in lacking)


def test_the_curve_of_the_regions_is_that_of_the_pixels_where_there_is_none():
    pixels, regions = curves_of(Settings.from_profile("toybox", confidence_curve="-1,20,5,1,10,0.9"))
    assert pixels == regions == CURVE
    assert curves_of(scene(0)[0].settings)[1] == Curve(-2, 10, 3, 0, 5, 0.9)
    for wrong in ("1,2,3,4,0.5", "1,2,3,4,5,1.5", "1,2,3,4,5,0.5;1,2", "1,2,3,4,5,0.5;1,2,3,4,5,6"):
        with pytest.raises(ValueError, match="six numbers"):
            Settings.from_profile("toybox", confidence_curve=wrong)


@pytest.mark.promise(61)
def test_what_is_unknown_is_saved_shown_and_measured_apart(tmp_path):
    matcher, regions, bank, truth = scene(3)
    vocabulary, image = Vocabulary(bank.names), np.full((8, 8, 3), 90, np.uint8)
    whole = matcher.predict(image, regions, vocabulary, bank)
    below = float(np.median(whole.confidence))
    doubtful = Matcher(matcher.settings.replace(unknown=below)).predict(image, regions, vocabulary, bank)
    assert (doubtful.unknown == (whole.confidence < below)).all() and 0 < doubtful.unknown.mean() < 1
    assert (doubtful.region_map == whole.region_map).all() and "unknown" in [name for _, name, _ in doubtful.legend]
    facts = json.loads(doubtful.save(tmp_path, "a")["regions"].read_text())
    assert (np.asarray(Image.open(tmp_path / "a.png")) == doubtful.labels).all()
    assert facts["unknown"] == {"label": UNKNOWN, "below": below}
    for i, (region, kept) in enumerate(zip(facts["regions"], doubtful.regions)):
        assert region.get("unknown", False) == (kept.confidence < below)
        seen = doubtful.region_map == i
        assert region["visible"] == seen.sum() and ("at" in region) == bool(region["visible"])
        assert "at" not in region or seen[region["at"][1], region["at"][0]]
    matrix, record = measure(Method(lambda image, _: doubtful), image, truth, 4, None)
    scored = truth < 4
    assert record["unknown_pixels"] == (doubtful.unknown & scored).sum() and record["scored_pixels"] == scored.sum()
    assert matrix.sum() == (~doubtful.unknown & scored).sum()
    y, x = np.argwhere(doubtful.unknown)[0]
    assert doubtful.explain(x, y).name == "unknown" and doubtful._repr_html_()


def test_unknown_pixels_are_hatched_and_have_a_colour_in_the_file():
    labels = np.array([[0, 1], [UNKNOWN, UNKNOWN]])
    drawn = np.asarray(draw_overlay(np.full((2, 2, 3), 90, np.uint8), labels, np.eye(3, dtype=np.uint8)[:2] * 200))
    lower = drawn[drawn.shape[0] // 2 + 4 : -4, 4:-4].reshape(-1, 3)
    assert len(np.unique(lower, axis=0)) == 2, "two greys in stripes"
    file = label_image(labels, np.zeros((2, 3), np.uint8))
    assert file.mode == "P" and len(file.getpalette()) >= 3 * (UNKNOWN + 1)


def test_more_than_254_labels_have_the_value_of_16_bits(tmp_path):
    vocabulary, labels = Vocabulary(tuple(f"n{i}" for i in range(299))), np.array([[0, 299, 65534]])
    result = Segmentation(np.zeros((1, 3, 3), np.uint8), labels, vocabulary)
    assert result.unknown.tolist() == [[False, False, True]]
    assert np.asarray(Image.open(result.save(tmp_path, "a")["labels"])).tolist() == labels.tolist()


@pytest.mark.promise(61)
def test_a_profile_without_a_curve_refuses_unknown_and_has_no_confidence():
    with pytest.raises(ValueError, match="paper has none"):
        curves_of(Settings.from_profile("paper", unknown=0.5))
    matcher, regions, bank, _ = scene(4)
    plain = Matcher(matcher.settings.replace(confidence_curve=""))
    result = plain.predict(np.zeros((8, 8, 3), np.uint8), regions, Vocabulary(bank.names), bank)
    assert result.confidence is None and all(r.confidence is None for r in result.regions)
    with pytest.raises(ValueError, match="method match"):
        RIM(matcher.settings.replace(unknown=0.5)).predict(
            np.zeros((8, 8, 3), np.uint8), regions, Vocabulary(bank.names), bank
        )


def test_a_region_that_is_hidden_is_seen_nowhere():
    mask = np.ones((2, 2), bool)
    regions = tuple(Region(mask, (0, 0, 2, 2), 1, "a", 0.5, confidence=c) for c in (0.2, 0.9))
    result = Segmentation(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), int), Vocabulary(("a",)), regions, below=0.5)
    assert result.visible_pixels() == [{"visible": 0, "unknown": True}, {"visible": 4, "at": [0, 1]}]
