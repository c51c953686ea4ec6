"""Results that show themselves and say why: numbers against rim.method.ranking and the map, HTML against markup in
names."""

import re
import numpy as np, pytest
from PIL import Image
from tiny import MODELS
from rim.measure.folders import FolderBenchmark, ToyboxBenchmark
from rim.measure.evaluation import Part
from rim.measure.report import Report
from rim.method.ranking import ranking_distribution, ranking_permutations, ranking_similarity
from rim.method.references import cosine_matrix
from rim.method.segmentation import Region, Segmentation, _reduce, _run_paths
from rim.method.segmenter import RIM
from rim.base.settings import _KINDS, Settings, _ini_groups
from rim.method.vocabulary import Vocabulary

NAMES = ["boat", "<b>tree</b>", '"sun" & moon']


@pytest.fixture(scope="module")
def rim():
    return RIM(
        Settings.from_profile(
            "toybox",
            **MODELS,
            images_per_class=4,
            denoising_steps=2,
            subcategories=2,
            points_per_side=4,
            pred_iou_thresh=0,
            stability_score_thresh=0,
        )
    )


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def result(rim, image):
    rim.bank_for(NAMES, progress=False)
    return rim.segment(image, NAMES)


def seen(result, i):
    return tuple(int(v) for v in np.argwhere(result.region_map == i)[0][::-1])


def visible(result):
    return [int(i) for i in np.unique(result.region_map) if i >= 0]


# explain


def test_the_winner_is_the_label_of_the_map(result):
    for i in visible(result):
        x, y = seen(result, i)
        e = result.explain(x, y)
        assert (
            e.index == i
            and e.region is result.regions[i]
            and e.name == e.region.name == next(iter(e.scores)) == result.vocabulary.labels[result.labels[y, x]]
        )
        assert e.agents == e.region.agents and list(e.scores)[1] == e.runner_up and e.runner_up in e.text
        assert {n: pytest.approx(s, abs=1e-9) for n, s in e.region.ranking.items()}.items() <= e.scores.items() and set(
            e.agents
        ) <= set(e.pictures)


def test_distributions_are_those_of_ranking(result, rim):
    bank = rim.bank_for(NAMES)
    references = bank.references(rim.settings)
    regions = rim.analyse(result.image)
    for i in visible(result):
        e = result.explain(*seen(result, i))
        vector = regions.features[
            next(j for j, m in enumerate(regions.proposals.masks) if m is e.region.mask or (m == e.region.mask).all())
        ].double()
        agents = [result.vocabulary.labels.index(a) for a in e.agents]
        own = cosine_matrix(vector[None], references.classes)[0]
        assert (
            list(e.cosines.values()) == sorted(own.tolist(), reverse=True)
            and {n: pytest.approx(own[result.vocabulary.labels.index(n)].item()) for n in e.cosines} == e.cosines
        )
        p = own[agents].clamp(min=rim.settings.score_floor)
        assert (
            np.allclose(e.distributions[0], ranking_distribution(p).numpy())
            and (e.rankings == ranking_permutations(len(agents)).numpy()).all()
        )
        for row, name in ((1, e.name), (2, e.runner_up)):
            theirs = references.gram[references.owner == result.vocabulary.labels.index(name)][:, agents].clamp(
                min=rim.settings.score_floor
            )
            best = theirs[int(ranking_similarity(p[None], theirs).argmax())]
            assert np.allclose(e.distributions[row], ranking_distribution(best).numpy())
        assert np.allclose(e.distributions.sum(1), 1)


def test_many_agents_are_explained_without_their_orders(rim, image, result):
    names = ", ".join("abcdefg")
    many = RIM(rim.settings.replace(agents=7, images_per_class=2, subcategories=1))
    many.bank_for(names, progress=False)
    found = many.segment(image, names)
    e = found.explain(*seen(found, visible(found)[0]))
    assert e.distributions is None and len(e.agents) == 7 and e.runner_up in e.text and "<svg" not in e._repr_html_()


def test_plain_cosine_is_explained_too(rim, image, result):
    found = rim.segment(image, NAMES, ranking=False, subcategories=False)
    e = found.explain(*seen(found, visible(found)[0]))
    assert (
        not e.agents
        and e.distributions is None
        and e.text.startswith("The cosine puts")
        and e.scores[e.name] == pytest.approx(e.cosines[e.name])
    )


def test_painting_by_score_is_explained_by_what_is_on_top(rim, image, result):
    found = RIM(rim.settings.replace(painting="score"), bank=rim.bank_for(NAMES)).segment(image, NAMES)
    assert [r.score for r in found.regions] == sorted(r.score for r in found.regions)
    for i in visible(found):
        x, y = seen(found, i)
        assert found.regions[i].score == max(r.score for r in found.regions if r.mask[y, x])


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (96, 0), (0, 64), (float("nan"), 0)])
def test_outside_is_refused(result, place):
    with pytest.raises(
        ValueError, match=r"x from 0 to 95 and y from 0 to 63: got \(" + re.escape(f"{place[0]}, {place[1]}")
    ):
        result.explain(*place)


def test_uncovered_pixels_and_other_methods_say_so(tiny_image, tiny_masks):
    region = Region(tiny_masks[1], (8, 6, 20, 16), 1, "boat", 0.75, (), {"boat": 0.75, "tree": 0.5})
    plain = Segmentation(tiny_image, tiny_masks[1] * 1, Vocabulary.of("boat, tree"), (region,))
    assert (
        plain.explain(0, 0).text.startswith("No region covers this pixel, so it is background")
        and plain.explain(0, 0).index == -1
    )
    e = plain.explain(10, 10)
    assert (
        "Only what RIM matched" in e.text
        and "0.750" in e.text
        and e.scores == region.ranking
        and "<table" not in e._repr_html_()
    )


def test_evidence_is_not_saved(result, tmp_path):
    text = result.save(tmp_path, "x")["regions"].read_text()
    assert "evidence" not in text and "distributions" not in text and "evidence" not in repr(result)


# pages


def pages(result, rim):
    bank, labels = rim.bank_for(NAMES), np.arange(4).repeat(24)[None].repeat(64, 0)
    all_named = Segmentation(
        result.image,
        labels,
        result.vocabulary,
        tuple(Region(labels == i, (0, 0, 96, 64), i, result.vocabulary.labels[i], 0.5) for i in range(1, 4)),
    )
    return {
        "result": all_named,
        "explanation": result.explain(*seen(result, visible(result)[0])),
        "bank": bank,
        "settings": rim.settings.replace(prompt="<b>tree</b> {}"),
        "benchmark": ToyboxBenchmark(5),
    }


def test_pages_have_no_markup_of_ours_to_offer(result, rim):
    for name, thing in pages(result, rim).items():
        html = thing._repr_html_()
        assert "<b>tree</b>" not in html and '"sun"' not in html, name
        assert "<script" not in html and not re.search(
            r"https?://|url\(|@import|(?:background|color):\s*(?:white|black|#fff|#000)\b", html
        ), name
        if name != "benchmark":
            assert "&lt;b&gt;tree&lt;/b&gt;" in html, name
        assert len(html) < 100_000, name


def test_every_visible_region_can_be_pointed_at(result):
    titles = re.findall(r"<title>(.*?)</title>", result._repr_html_())
    assert len(titles) == len(visible(result)) and all(re.search(r" -?\d+\.\d{3}$", t) for t in titles)


def test_runs_cover_each_index_once():
    indices = np.array([[0, 0, -1], [1, 0, 0]])
    again = np.full((2, 3), -1)
    for i, d in _run_paths(indices).items():
        for x, y, w in re.findall(r"M(\d+) (\d+)h(\d+)", d):
            again[int(y), int(x) : int(x) + int(w)] = i
    assert (again == indices).all() and _run_paths(np.full((2, 2), -1)) == {}


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (480, 640), (100, 100)])
def test_reduced(shape):
    small = _reduce(np.arange(shape[0] * shape[1]).reshape(shape), 160)
    assert max(small.shape) <= 160 and min(small.shape) >= 1 and (max(shape) > 160 or small.shape == shape)


def test_a_photograph_stays_small(rng):
    image = np.asarray(Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((3000, 2250)))
    labels = rng.integers(0, 3, (18, 24)).repeat(125, 0).repeat(125, 1)
    regions = tuple(Region(labels == c, (0, 0, 3000, 2250), c, "ab"[c - 1], 0.5) for c in (1, 2))
    assert len(Segmentation(image, labels, Vocabulary.of("a, b"), regions)._repr_html_()) < 300_000


def test_settings_are_all_shown_once_and_changes_are_marked(monkeypatch):
    monkeypatch.delenv("RIM_STORE")  # it is a change as well
    keys = [key for group in _ini_groups().values() for key in group]
    assert sorted(keys) == sorted(set(_KINDS) - {"profile"})
    html = Settings.from_profile("toybox", agents=3)._repr_html_()
    assert (
        "<b>3</b></td>" in html
        and "toybox: 4" in html
        and "<b>1 changed</b>" in html
        and html.count("<details open") == 1
        and "DEFAULT: 512" in html
    )


def test_a_benchmark_says_what_it_cannot_show(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.png").write_bytes(b"none")
    (tmp_path / "names.txt").write_text("<b>x</b>\ny")
    html = FolderBenchmark(tmp_path)._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html and "<b>x" not in html and "can&#x27;t be read" in html and "<img" not in html
    assert ToyboxBenchmark(5)._repr_html_().count("<img") == 8


def test_a_report_shows_names_as_text():
    report = Report("<b>x</b>", ("background", "boat"), ("a",), {"one | two": np.ones((1, 2, 2), np.int64)}, draws=10)
    text = report._repr_markdown_()
    assert (
        "<b>" not in text
        and "&lt;b&gt;x&lt;/b&gt;, 1 image" in text
        and all(line.count("|") == 4 for line in text.splitlines())
    )


def test_a_part_of_a_benchmark_shows_itself():
    html = Part(ToyboxBenchmark(5), [3])._repr_html_()
    assert html.count("<img") == 2 and "1 image," in html


def test_one_class_has_no_runner_up(rim, image):
    alone = Vocabulary.of("boat", background=False)
    found = RIM(rim.settings, bank=rim.bank_for(NAMES)).segment(image, alone)
    e = found.explain(*seen(found, visible(found)[0]))
    assert (
        e.name == "boat"
        and e.runner_up == ""
        and e.distributions.shape == (2, 1)
        and "before nothing else" in e.text
        and "<svg" in e._repr_html_()
    )
