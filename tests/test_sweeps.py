"""Sweeps: other matchings of the same regions give what the segmenter itself would, and nothing is painted or analysed
twice."""

from dataclasses import replace
import numpy as np
import pytest
import torch
from tiny import MODELS
from rim.method import references
from rim.measure.folders import ToyboxBenchmark
from rim.measure.evaluation import evaluate
from rim.method.segmentation import Method
from rim.method.segmenter import RIM, VARIANTS
from rim.base.settings import Settings
from rim.base.store import Store
from rim.measure.sweeps import background_words, behind_words, contrast, patchwise, rebank, relabel, thinned, wider
from rim.method.vocabulary import Vocabulary

TINY = dict(
    **MODELS,
    images_per_class="4",
    subcategories="2",
    denoising_steps="2",
    points_per_side="3",
    pred_iou_thresh="0",
    stability_score_thresh="0",
    bootstrap="50",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A tiny segmenter, its benchmark and its bank."
    rim = RIM(Settings.from_profile("toybox", **TINY), store=Store(tmp_path_factory.mktemp("store")), keep=True)
    toybox = ToyboxBenchmark(3, size=64)
    return rim, toybox, rim.bank_for(toybox.vocabulary, progress=False)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(
    "changes",
    [{}, dict(agents=2), dict(candidates="all", painting="score"), dict(subcategories=1, uncovered="patches")],
    ids=str,
)
def test_another_matching_is_what_the_segmenter_does_with_these_settings(made, variant, changes):
    rim, toybox, bank = made
    other = RIM(rim.settings.replace(**changes), bank=bank, store=rim.store)
    for i in range(len(toybox)):
        image, regions = toybox[i][0], rim.analyse(toybox[i][0])
        expected = other.predict(image, regions, toybox.vocabulary, bank, **variant).labels
        assert (relabel(rim, toybox.vocabulary, bank, variant, **changes).predict(image, regions) == expected).all()


def test_all_matchings_share_one_analysis(made):
    rim, toybox, bank = made
    seen = []

    class Counting:
        settings = rim.settings

        def analyse(self, image):
            seen.append(1)
            return rim.analyse(image)

    counting = Counting()
    methods = {n: relabel(counting, toybox.vocabulary, bank, agents=n) for n in (1, 2, 3)} | {
        "patches": patchwise(counting, toybox.vocabulary, bank)
    }
    evaluate(methods, toybox, rim.settings, progress=False)
    assert len(seen) == len(toybox)


def test_the_draw_changes_random_agents_and_nothing_else(made):
    rim, toybox, bank = made
    image = toybox[0][0]
    regions = rim.analyse(image)
    label = lambda draw, choice: relabel(
        rim, toybox.vocabulary, bank, draw=draw, candidates="all", agent_choice=choice
    ).predict(image, regions)
    assert (label(0, "nearest") == label(7, "nearest")).all() and (label(3, "random") == label(3, "random")).all()
    assert any((label(0, "random") != label(s, "random")).any() for s in range(1, 6))


def test_only_the_matching_may_change(made):
    rim, toybox, bank = made
    with pytest.raises(ValueError, match="got 'points_per_side'"):
        relabel(rim, toybox.vocabulary, bank, points_per_side=9)


def test_patches_have_one_label_each(made):
    rim, toybox, bank = made
    image = toybox[0][0]
    regions = rim.analyse(image)
    labels = patchwise(rim, toybox.vocabulary, bank, dict(ranking=False)).predict(image, regions)
    h, w = regions.grid.shape[1:]
    blocks = labels.reshape(h, labels.shape[0] // h, w, labels.shape[1] // w).swapaxes(1, 2).reshape(h * w, -1)
    assert (blocks == blocks[:, :1]).all()
    flat = torch.nn.functional.normalize(regions.grid.flatten(1).T.double(), dim=1)
    groups = bank.references(rim.settings)
    votes = torch.stack(
        [
            (flat @ torch.nn.functional.normalize(groups.prototypes[groups.owner == c], dim=1).T).mean(1)
            for c in range(len(toybox.vocabulary))
        ],
        1,
    )
    assert (blocks[:, 0] == votes.argmax(1).numpy()).mean() > 0.99, "ties apart, the class of the highest mean cosine"


def test_a_thinner_bank_is_part_of_the_bank_and_of_the_next_thicker(made):
    *_, bank = made
    rows = lambda b: {r.tobytes() for r in b.foreground}
    sizes = {k: thinned(bank, k, 1) for k in (1, 2, 4, 9)}
    assert [np.bincount(b.owner).max() for b in sizes.values()] == [1, 2, 4, 4]
    assert rows(sizes[1]) <= rows(sizes[2]) <= rows(sizes[4]) == rows(sizes[9]) == rows(bank)
    assert thinned(bank, 1, 1).digest == sizes[1].digest != thinned(bank, 1, 2).digest
    assert sizes[1].references(Settings.from_profile("toybox")).prototypes.shape[0] == len(bank) + 1
    with pytest.raises(ValueError, match="at least one image: got 0"):
        thinned(bank, 0, 0)


def test_other_masks_need_no_new_pictures(made, monkeypatch):
    rim, toybox, bank = made

    def painted(*_):
        raise AssertionError("an image was generated again")

    monkeypatch.setattr(references, "synthesise", painted)
    again = rebank(rim, toybox.vocabulary, attention_threshold=0.2, images_per_class=2)
    assert len(again.owner) == 2 * len(bank) and np.allclose(
        again.whole,
        bank.whole[np.concatenate([np.flatnonzero(bank.owner == c)[:2] for c in range(len(bank))])],
        atol=1e-6,
    )
    same = rebank(rim, toybox.vocabulary)
    assert same.digest == bank.digest
    with pytest.raises(ValueError, match="got 'guidance'"):
        rebank(rim, toybox.vocabulary, guidance=1.0)


def test_words_of_the_background_are_background():
    toybox = ToyboxBenchmark(1)
    assert "sky" in background_words(toybox) and background_words(object()) == ()
    wide = wider(toybox.vocabulary, background_words(toybox))
    labels = np.arange(len(wide))
    method = Method(lambda image, _: labels)
    expected = np.where(labels < len(toybox.vocabulary), labels, 0)
    assert (behind_words(method, toybox.vocabulary).predict(None, None) == expected).all()
    with pytest.raises(ValueError, match="need a vocabulary that has one"):
        wider(Vocabulary(("boat",), background=False), ["sky"])


def test_contrast_is_the_reports_own_interval_and_averages_methods(made):
    _, toybox, _ = made
    rng = np.random.default_rng(0)
    methods = {
        name: Method(
            lambda image, _, seed=seed: np.random.default_rng(seed + int(image.sum()) % 997).integers(
                0, 17, image.shape[:2]
            )
        )
        for seed, name in enumerate("abc")
    }
    report = evaluate(methods, toybox, Settings.from_profile("toybox", bootstrap=50), progress=False)
    assert np.allclose(contrast(report, "a"), 100 * np.array(report.interval("a")))
    assert np.allclose(contrast(report, "a", "b"), 100 * np.array(report.difference("a", "b")))
    assert np.isclose(contrast(report, ["a", "b", "c"])[1], np.mean([contrast(report, name)[1] for name in "abc"]))
    assert contrast(report, ["a", "b"], ["b", "a"]) == pytest.approx((0, 0, 0))
