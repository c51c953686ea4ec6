"""Examination: the oracle is a ceiling, region tables are right by hand, sentences follow from numbers."""

import dataclasses
import numpy as np
import pytest
import torch
from rim.measure import examination as ex
from rim.measure.evaluation import evaluate
from rim.method.proposals import Proposals
from rim.method.segmentation import Method
from rim.method.regions import Regions
from rim.base.settings import Settings
from rim.method.vocabulary import Vocabulary


class Two:
    "Two images of 10 x 10 with a boat on the left; the second has an ignored corner."

    name, vocabulary = "two", Vocabulary(("boat", "tree"))

    def __len__(self):
        return 2

    def __getitem__(self, i):
        truth = np.zeros((10, 10), np.uint8)
        truth[:, :4] = 1
        truth[:3, 7:] = 2
        if i:
            truth[-2:, -2:] = 255
        return np.full((10, 10, 3), i, np.uint8), truth, f"image {i}"

    def check(self):
        pass


def regions_of(*masks):
    masks = np.stack(masks)
    return Regions(
        Proposals(masks, np.zeros((len(masks), 4)), np.ones(len(masks)), np.ones(len(masks))),
        torch.eye(len(masks), 4),
        torch.zeros(4, 1, 1),
    )


def block(rows, columns):
    mask = np.zeros((10, 10), bool)
    mask[rows, columns] = True
    return mask


LEFT, WIDE, CORNER, GROUND = (
    block(slice(None), slice(0, 4)),
    block(slice(None), slice(0, 5)),
    block(slice(8, 10), slice(8, 10)),
    block(slice(5, 8), slice(5, 10)),
)


class FakeRim:
    settings, analysis_key = Settings.from_profile("toybox"), {}

    def __init__(self, *masks):
        self.masks = masks

    def analyse(self, image):
        return regions_of(*self.masks)


def test_segments_are_connected_parts_without_background_and_ignored():
    truth = np.zeros((20, 20), np.uint8)
    truth[:5, :5] = 1
    truth[10:15, :5] = 1
    truth[0, 10] = 2
    truth[15:, 15:] = 255
    assert [(label, int(m.sum())) for label, m in ex._true_segments(truth, smallest=0.01)] == [(1, 25), (1, 25)]
    assert {label for label, _ in ex._true_segments(truth, background=False, smallest=0)} == {0, 1, 2}


def test_majority_counts_no_ignored_pixel():
    truth = Two()[1][1]
    label, share = ex._majority(np.stack([LEFT, WIDE, CORNER]), truth, 3)
    assert label.tolist() == [1, 1, -1] and share.tolist() == [1.0, 0.8, 0.0]
    assert len(ex._majority(np.zeros((0, 10, 10), bool), truth, 3)[0]) == 0


def test_fit_is_iou():
    segments = ex._true_segments(Two()[0][1])
    assert np.allclose(ex._fits(np.stack([LEFT, WIDE]), segments), [[1, 0], [0.8, 0]])
    assert ex._fits(np.zeros((0, 10, 10), bool), segments).shape == (0, 2) and ex._fits(LEFT[None], []).shape == (1, 0)


def test_oracle_is_perfect_with_perfect_proposals_and_a_ceiling_with_others():
    tree = block(slice(0, 3), slice(7, 10))
    score = lambda *masks: evaluate(
        {"o": ex.oracle(FakeRim(*masks), Two())}, Two(), FakeRim.settings, progress=False
    ).rows[0]["mIoU"]
    assert score(LEFT, tree) == pytest.approx(100)
    assert score(WIDE, tree) < 100
    rng = np.random.default_rng(0)
    for _ in range(20):
        guess = rng.integers(0, 3, 2)

        def named(image, _):
            from rim.method.regions import paint

            return paint(np.stack([WIDE, GROUND]), guess, np.ones(2), (10, 10)).clip(0)

        found = evaluate({"g": Method(named)}, Two(), FakeRim.settings, progress=False).rows[0]["mIoU"]
        assert found <= score(WIDE, GROUND) + 1e-9


class Twice(Two):
    "One image under two truths."

    def __getitem__(self, i):
        _, truth, key = super().__getitem__(i)
        return np.zeros((10, 10, 3), np.uint8), np.where(truth == 1, 1 + i, truth * (truth == 255)), key

    def check(self):
        pass


@pytest.mark.promise(34)
def test_the_oracle_judges_an_image_that_is_there_twice_by_its_own_truth():
    oracle = ex.oracle(FakeRim(LEFT), Twice())
    report = evaluate({"o": oracle}, Twice(), FakeRim.settings, progress=False)
    assert report.per_class("o") == {"background": 1, "boat": 1, "tree": 1}
    with pytest.raises(ValueError, match="2 of this image"):
        oracle(Twice()[0][0])
    assert oracle(Twice()[0][0], Twice()[1][1]).max() == 2


@pytest.fixture
def table():
    namers = {"boat": lambda image, r: np.ones(len(r), int), "knows": lambda image, r: np.array([1, 1, 0])}
    return ex.examine(namers, Two(), FakeRim(LEFT, WIDE, GROUND).analyse)


def test_the_table_of_regions(table):
    assert (
        table.truth.tolist() == [1, 1, 0] * 2
        and table.image.tolist() == [0, 0, 0, 1, 1, 1]
        and table.region.tolist() == [0, 1, 2] * 2
    )
    assert table.things().tolist() == [True, True, False] * 2 and table.ground().tolist() == [False, False, True] * 2
    assert table.segments.tolist() == [1, 2] * 2 and table.recall() == 0.5 and table.things(0.9).sum() == 2


def test_accuracy_with_interval(table):
    everything = np.ones(6, bool)
    low, middle, high = ex.accuracy(table, table.named["boat"], everything)
    assert middle == pytest.approx(2 / 3) and low == high == middle, "both images are alike"
    assert ex.accuracy(table, table.named["knows"], everything)[1] == 1
    assert all(np.isnan(ex.accuracy(table, table.named["boat"], ~everything)))


def test_class_means_teach_only_the_other_half(table):
    found = ex.named_by_class_means(table, np.ones(6, bool))
    assert found.tolist() == [1, 1, 0] * 2
    assert (
        ex.named_by_class_means(
            dataclasses.replace(table, truth=np.where(table.image == 1, 2, table.truth)), np.ones(6, bool)
        )[:3]
        == 2
    ).all()
    assert (ex.named_by_class_means(table, table.image == 0) == -1).all(), "nobody teaches the first half"


def test_confusions_and_partings(table):
    everything = np.ones(6, bool)
    assert (
        ex.confusions(table, "boat", everything) == [("background", "boat", 2, 1.0)]
        and ex.confusions(table, "knows", everything) == []
    )
    one, other = ex.parted(table, "knows", "boat", everything)
    assert one.tolist() == [2, 5] and other.tolist() == []


@pytest.mark.parametrize(
    "numbers, word",
    [
        ((1, 2, 3), "gains 2.0 points"),
        ((-3, -2, -1), "loses 2.0 points"),
        ((-1, 0.5, 2), "no difference"),
        ((float("nan"),) * 3, "can't be compared"),
    ],
)
def test_verdicts(numbers, word):
    assert word in ex.verdict(*numbers)


def test_a_bank_must_fit_what_is_measured():
    from dataclasses import replace
    from rim.method.shipped import read_shipped

    settings, words, bank = Settings.from_profile("toybox"), Vocabulary(("boat", "tree")), read_shipped("toybox")
    part = ex.fit_bank(bank, ["oracle", "match"], settings, words)
    assert part.names == words.names and part.digest == bank.subset(words.names).digest
    assert ex.fit_bank(part, ["+ ranking"], settings, words).digest == part.digest
    renamed = Vocabulary(("ship", "tree"), synonyms={"ship": ("boat",)})
    assert ex.fit_bank(part, ["rim"], settings, renamed).names == ("ship", "tree")
    bare = replace(part, background=np.full_like(part.background, np.nan), memory={})
    for method in ("rim", "match"):
        with pytest.raises(ValueError, match="background needs"):
            ex.fit_bank(bare, [method], settings, words)
        assert ex.fit_bank(bare, [method], settings, Vocabulary(words.names, background=False)).names == words.names
    with pytest.raises(ValueError, match="has references"):
        ex.fit_bank(part, ["trident", "oracle"], settings, words)
    with pytest.raises(ValueError, match=r"mine lacks 1 of 2 \(moon\)"):
        ex.fit_bank(part, ["rim"], settings, Vocabulary(("boat", "moon")), "mine")
    for names in (["rim"], ["match", "rim"]):
        with pytest.raises(ValueError, match="goes with the encoder"):
            ex.fit_bank(read_shipped("toybox-match"), names, settings, words)


def test_workers_measure_with_the_bank_that_is_sent_to_them():
    import pickle
    from functools import partial
    from rim.measure.folders import ToyboxBenchmark
    from rim.method.shipped import read_shipped

    settings, benchmark = Settings.from_profile("toybox"), ToyboxBenchmark(1)
    bank = ex.fit_bank(read_shipped("toybox-match"), ["match"], settings, benchmark.vocabulary)
    sent = pickle.loads(pickle.dumps(partial(ex.make_methods, ["match", "clip-crops"], settings, bank=bank)))
    methods = sent(benchmark)
    assert methods["match"].key["bank"] == bank.digest and "bank" not in methods["clip-crops"].key
