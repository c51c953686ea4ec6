"""Matching: agents, scores, classes and painting against loops and brute force; the segmenter from end to end on random
weights."""

import numpy as np, pytest, torch
from hypothesis import given, settings as budget, strategies as st
from tiny import MODELS
from rim.method.proposals import Proposals
from rim.method.ranking import ranking_distribution
from rim.method.bank import ReferenceBank
from rim.method.references import References, cosine_matrix
from rim.method.tools import Tools
from rim.method.regions import Analyser, Regions, box_of, _pack_proposals, paint, rank_classes, _unpack_proposals
from rim.method.segmenter import (
    RIM,
    VARIANTS,
    choose_agents,
    fill_uncovered,
    match_features,
    _matching_key,
    region_scores,
)
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=2,
        denoising_steps=2,
        subcategories=2,
        points_per_side=4,
        pred_iou_thresh=0,
        stability_score_thresh=0,
    )


@pytest.fixture(scope="module")
def rim(tiny):
    rim = RIM(tiny)
    rim.bank_for("boat, tree", progress=False)
    return rim


@pytest.fixture
def space():
    "Six class references, three subcategories of each (the last has two), nine regions; positive cosines."
    g = torch.Generator().manual_seed(1)
    classes = torch.randn(6, 12, generator=g).double() + 1.5
    owner = torch.arange(6).repeat_interleave(3)[:-1]
    return References(classes, classes[owner] + 0.4 * torch.randn(17, 12, generator=g), owner, 3), classes[
        torch.arange(9) % 6
    ] + 0.7 * torch.randn(9, 12, generator=g)


# agents and scores


def test_agents_are_the_nearest(space):
    cosine = cosine_matrix(space[1], space[0].classes)
    assert choose_agents(cosine, 4).tolist() == [
        sorted(range(6), key=lambda c: (-row[c], c))[:4] for row in cosine.tolist()
    ]
    assert choose_agents(cosine, 10).shape == (9, 6)


def test_equal_cosines_go_to_the_lower_index():
    assert choose_agents(torch.ones(1, 5), 3).tolist() == [[0, 1, 2]]


def test_random_agents(space):
    cosine = cosine_matrix(space[1], space[0].classes)
    drawn = [choose_agents(cosine, 3, "random", seed) for seed in range(40)]
    assert (
        torch.equal(drawn[0], choose_agents(cosine, 3, "random", 0))
        and len({tuple(d[0].sort().values.tolist()) for d in drawn}) > 5
    )
    assert all(
        (cosine.gather(1, d).diff(dim=1) <= 0).all() and all(len(set(row)) == 3 for row in d.tolist()) for d in drawn
    )
    with pytest.raises(ValueError, match="nearest or random"):
        choose_agents(cosine, 3, "best")


def test_scores_are_cosines_with_the_agents(space):
    refs, regions = space
    agents = choose_agents(cosine := cosine_matrix(regions, refs.classes), 3)
    own, theirs = region_scores(cosine, refs.gram, agents)
    for p in range(9):
        vectors = refs.classes[agents[p]]
        assert torch.allclose(own[p], cosine_matrix(regions[p : p + 1], vectors)[0]) and torch.allclose(
            theirs[p], cosine_matrix(refs.prototypes, vectors)
        )


# the match against brute force (eq. 6 to 10)


def test_match_equals_enumeration(space, tiny):
    refs, regions = space
    found = match_features(regions, refs, tiny.replace(agents=4))
    for p in range(9):
        agents = refs.classes[found.agents[p]]
        own = ranking_distribution(cosine_matrix(regions[p : p + 1], agents).clamp(min=1e-6))
        theirs = ranking_distribution(cosine_matrix(refs.prototypes, agents).clamp(min=1e-6))
        similarity = torch.nn.functional.cosine_similarity(own, theirs)
        scores = torch.stack([similarity[refs.owner == c].mean() * 3 for c in range(6)])
        np.testing.assert_allclose(found.scores[p], scores, atol=1e-10)
        assert found.labels[p] == scores.argmax()


def test_without_ranking_it_is_the_nearest(space, tiny):
    refs, regions = space
    flat = References(refs.classes, refs.classes, torch.arange(6))
    found = match_features(regions, flat, tiny, ranking=False)
    assert found.labels.tolist() == cosine_matrix(regions, refs.classes).argmax(1).tolist() and found.agents.shape == (
        9,
        0,
    )


def test_one_agent_leaves_it_to_the_cosine(space, tiny):
    refs, regions = space
    assert (
        match_features(regions, refs, tiny.replace(agents=1)).labels.tolist()
        == cosine_matrix(regions, refs.classes).argmax(1).tolist()
    )


def test_scale_and_order_of_regions_do_not_matter(space, tiny):
    refs, regions = space
    found = match_features(regions, refs, tiny)
    assert (match_features(7 * regions.flip(0), refs, tiny).labels[::-1] == found.labels).all()


def test_negative_cosines_are_clamped_and_counted(tiny):
    classes = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, 1.0]])
    refs = References(classes, classes, torch.arange(3))
    found = match_features(torch.tensor([[1.0, 0.2]]), refs, tiny.replace(agents=3))
    assert found.record["clamped"] > 0 and found.labels.tolist() == [0] and np.isfinite(found.scores).all()
    assert (
        match_features(torch.tensor([[1.0, 0.2]]), refs, tiny.replace(agents=3, ranking="softmax")).record["clamped"]
        == 0
    )


def test_broken_features_are_left_unnamed(space, tiny):
    refs, regions = space
    broken = regions.clone()
    broken[2] = torch.nan
    broken[5, 3] = torch.inf
    found, whole = match_features(broken, refs, tiny), match_features(regions, refs, tiny)
    assert found.labels[[2, 5]].tolist() == [-1, -1] and found.record["unmatched"] == 2
    rest = [0, 1, 3, 4, 6, 7, 8]
    assert (found.labels[rest] == whole.labels[rest]).all()


@pytest.mark.parametrize("ranking", [True, False])
def test_no_region_at_all(space, tiny, ranking):
    assert match_features(torch.zeros(0, 12), space[0], tiny, ranking).labels.shape == (0,)


def test_one_class(tiny):
    one = References(torch.ones(1, 3), torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), 2)
    assert match_features(torch.randn(4, 3), one, tiny).labels.tolist() == [0] * 4


def test_centre_is_taken_from_the_regions(space, tiny):
    refs, regions = space
    centre = refs.classes.mean(0)
    moved = References(refs.classes - centre, refs.prototypes - centre, refs.owner, 3, centre)
    by_hand = match_features(regions - centre, References(moved.classes, moved.prototypes, moved.owner, 3), tiny)
    assert (match_features(regions, moved, tiny).scores == by_hand.scores).all()


def test_fewer_subcategories_are_no_handicap():
    scores = rank_classes(
        torch.tensor([[0.5, 0.5, 0.5, 0.6]]), torch.tensor([0, 0, 0, 1]), torch.tensor([[0.1, 0.2]]), 3
    )[1]
    np.testing.assert_allclose(scores, [[1.5, 1.8]], atol=1e-6)


def test_ties():
    even = torch.full((1, 3), 0.25)
    assert rank_classes(even, torch.arange(3), torch.tensor([[0.1, 0.9, 0.9]]))[0].tolist() == [[1, 2, 0]]
    assert rank_classes(even, torch.arange(3), torch.ones(1, 3))[0].tolist() == [[0, 1, 2]]
    assert rank_classes(
        even.double() + torch.tensor([[1e-15, 0, 0]]), torch.arange(3), torch.tensor([[0.1, 0.2, 0.3]])
    )[0].tolist() == [[2, 1, 0]]  # rounding is a tie too


# painting


@budget(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(0, 2**31), st.sampled_from(["area", "score"]))
def test_paint_equals_a_loop_over_pixels(n, seed, how):
    rng = np.random.default_rng(seed)
    masks, labels, scores = (
        rng.random((n, 5, 6)) < rng.random((n, 1, 1)),
        rng.integers(-1, 4, n),
        rng.integers(0, 3, n) / 4,
    )
    found = paint(masks, labels, scores, (5, 6), how)
    boxes = [(xs.min(), ys.min(), xs.max(), ys.max()) if len(ys) else (0, 0, 0, 0) for ys, xs in map(np.nonzero, masks)]
    assert np.array_equal(found, paint(masks, labels, scores, (5, 6), how, boxes))
    rank = sorted(range(n), key=lambda i: (-masks[i].sum() if how == "area" else scores[i], i))
    for y, x in np.ndindex(5, 6):
        assert found[y, x] == next((labels[i] for i in reversed(rank) if masks[i, y, x] and labels[i] >= 0), -1)


def test_uncovered(space, tiny):
    refs, canvas = space[0], np.array([[-1, 2], [-1, 2]])
    grid = refs.classes[[1, 3]].T.reshape(12, 2, 1)
    assert fill_uncovered(canvas, grid, refs, tiny, True).tolist() == [[0, 2], [0, 2]]
    assert (
        fill_uncovered(canvas, grid, refs, tiny, False).tolist()
        == [[1, 2], [3, 2]]
        == fill_uncovered(canvas, grid, refs, tiny.replace(uncovered="patches"), True).tolist()
    )
    with pytest.raises(ValueError, match="uncovered"):
        fill_uncovered(canvas, grid, refs, tiny.replace(uncovered="background"), False)


def test_uncovered_patches_without_features(space, tiny):
    assert (fill_uncovered(np.full((4, 4), -1), torch.full((12, 2, 2), torch.nan), space[0], tiny, False) == 0).all()


# end to end


def test_segment(rim, tiny_image):
    result = rim.segment(tiny_image, "boat, tree")
    assert (
        result.labels.shape == (24, 32)
        and set(np.unique(result.labels)) <= {0, 1, 2}
        and result.record["proposals"] >= len(result.regions)
    )
    for region in result.regions:
        assert (
            region.name == result.vocabulary.labels[region.label]
            and len(region.agents) == min(3, rim.settings.agents)
            and next(iter(region.ranking)) == region.name
        )


def test_variants_share_one_analysis(rim, tiny_image):
    vocabulary, regions = Vocabulary.of("boat, tree"), rim.analyse(tiny_image)
    bank = rim.bank_for(vocabulary)
    for variant in VARIANTS.values():
        assert (
            rim.predict(tiny_image, regions, vocabulary, bank, **variant).labels
            == rim.segment(tiny_image, vocabulary, **variant).labels
        ).all()


def test_vocabulary_without_background(rim, tiny_image):
    result = rim.segment(tiny_image, Vocabulary.of("boat, tree", background=False))
    assert result.vocabulary.labels == ("boat", "tree") and set(np.unique(result.labels)) <= {0, 1}


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 200)])
def test_odd_sizes(rim, shape):
    assert rim.segment(np.full((*shape, 3), 90, np.uint8), "boat, tree").labels.shape == shape


def test_no_proposal(rim, tiny_image):
    empty = Regions(
        Proposals(np.zeros((0, 24, 32), bool), np.zeros((0, 4)), np.zeros(0), np.zeros(0)),
        torch.zeros(0, 32),
        rim.analyse(tiny_image).grid,
    )
    result = rim.predict(tiny_image, empty, Vocabulary.of("boat, tree"), rim.bank_for("boat, tree"))
    assert (
        (result.labels == 0).all()
        and result.regions == ()
        and result.record == {"proposals": 0, "uncovered": 1.0, "unmatched": 0, "clamped": 0}
    )


def test_broken_encoder(tiny, rim, tiny_image):
    class Broken:
        name, dim = "broken", 32

        def features(self, image):
            return torch.full((32, 4, 4), torch.nan)

    result = RIM(tiny, rim.tools.proposer, Broken(), rim.bank_for("boat, tree")).segment(tiny_image)
    assert (result.labels == 0).all() and result.record["unmatched"] == result.record["proposals"] > 0


def test_given_bank(tiny, rim, tiny_image):
    other = RIM(tiny, rim.tools.proposer, rim.tools.region_encoder, rim.bank_for("boat, tree"))
    assert (other.segment(tiny_image).labels == rim.segment(tiny_image, "boat, tree").labels).all() and other.segment(
        tiny_image, ["tree"]
    ).vocabulary.names == ("tree",)
    with pytest.raises(ValueError, match="got sofa"):
        other.segment(tiny_image, "sofa")
    with pytest.raises(ValueError, match="names to look for"):
        rim.segment(tiny_image)


def test_analyses_are_kept(tiny, rim, tiny_image, tmp_path):
    tools = type(
        "Counted", (), {"region_proposer": rim.tools.region_proposer, "region_encoder": rim.tools.region_encoder}
    )()
    first = Analyser(tiny, tools, Store(tmp_path)).analyse(tiny_image)
    again = Analyser(tiny, None, Store(tmp_path)).analyse(tiny_image)  # needs no model
    assert (
        (first.proposals.masks == again.proposals.masks).all()
        and torch.equal(first.features, again.features)
        and torch.equal(first.grid, again.grid)
        and first.seed == again.seed
    )
    unkept = Analyser(tiny, tools).analyse(tiny_image)
    assert torch.equal(first.features, unkept.features) and (first.proposals.masks == unkept.proposals.masks).all()


def test_another_encoder_needs_no_new_proposals(tiny, rim, tiny_image, tmp_path):
    Analyser(
        tiny,
        type("All", (), {"region_proposer": rim.tools.region_proposer, "region_encoder": rim.tools.region_encoder})(),
        Store(tmp_path),
    ).analyse(tiny_image)
    other = tiny.replace(region_side=2 * tiny.region_side)
    tools = type("NoProposer", (), {"region_encoder": Tools(other).region_encoder})()
    regions = Analyser(other, tools, Store(tmp_path)).analyse(tiny_image)
    assert (regions.proposals.masks == rim.analyse(tiny_image).proposals.masks).all() and regions.grid.shape[
        1
    ] > rim.analyse(tiny_image).grid.shape[1]


def test_pack_without_regions():
    empty = Regions(
        Proposals(np.zeros((0, 4, 5), bool), np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0)),
        torch.zeros(0, 3),
        torch.zeros(3, 1, 1),
    )
    assert _unpack_proposals(_pack_proposals(empty.proposals)).masks.shape == (0, 4, 5)


def test_box_of():
    assert box_of(np.float32([2, 3, 2, 3])) == (2, 3, 3, 4)


# keys


@pytest.mark.parametrize(
    "change, variant, hit",
    [
        (dict(agents=3), {}, False),
        (dict(agents=3), dict(ranking=False), True),
        (dict(candidates="all"), {}, False),
        (dict(score_floor=1e-3), {}, False),
        (dict(ranking_temperature=2), {}, True),
        (dict(ranking="softmax"), {}, False),
        (dict(agent_choice="random"), {}, False),
        (dict(subcategories=5), {}, False),
        (dict(subcategories=5), dict(subcategories=False), True),
        (dict(background_subcategories=5), {}, False),
        (dict(background_subcategories=5), dict(subcategories=False), True),
        (dict(seed=5), {}, False),
        (dict(seed=5), dict(subcategories=False), True),
        (dict(painting="score"), {}, False),
        (dict(uncovered="patches"), {}, False),
        (dict(centring="bank"), {}, False),
        (dict(points_per_batch=3), {}, True),
        (dict(bootstrap=3), {}, True),
    ],
)
def test_matching_keys(tiny, change, variant, hit):
    assert (_matching_key(tiny, **variant) == _matching_key(tiny.replace(**change), **variant)) == hit


@pytest.mark.parametrize(
    "change, hit",
    [
        (dict(points_per_side=5), False),
        (dict(pred_iou_thresh=0.1), False),
        (dict(proposals="dense"), False),
        (dict(box_nms_thresh=0.1), False),
        (dict(stability_score_thresh=0.1), False),
        (dict(stability_score_offset=2), False),
        (dict(region_side=96), False),
        (dict(seed=1), False),
        (dict(points_per_batch=7), True),
        (dict(agents=2), True),
        (dict(clip_side=32), True),
    ],
)
def test_analysis_keys(tiny, change, hit):
    assert (RIM(tiny).analysis_key == RIM(tiny.replace(**change)).analysis_key) == hit


def test_only_agents_may_win_where_the_setting_says_so(tiny):
    features, classes = torch.rand(20, 6) + 0.1, torch.rand(9, 6) + 0.1
    references = References(classes, classes, torch.arange(9))
    free, bound = (
        match_features(features, references, tiny.replace(candidates=c, agents=2)) for c in ("all", "agents")
    )
    assert all(label in agents for label, agents in zip(bound.labels, bound.agents))
    assert any(label not in agents for label, agents in zip(free.labels, free.agents))
    assert np.array_equal(free.scores, bound.scores)
    with pytest.raises(ValueError, match="candidates"):
        match_features(
            features,
            references,
            tiny.replace(candidates="all", **{}).__class__(**{**tiny.as_dict(), "candidates": "some"}),
        )


# Tables 3 and 4: every encoder and every source of regions, from end to end


@pytest.mark.parametrize(
    "change",
    [
        dict(feature="clip"),
        dict(feature="clip", feature_kind="tokens"),
        dict(feature="mae"),
        dict(feature="sd", reference_side=64, region_side=64),
        dict(proposer="maskformer", maskformer_score=0),
        dict(proposer="none"),
    ],
)
def test_every_encoder_and_proposer_segments(tiny, rim, tiny_image, change, tmp_path):
    own = tiny.replace(mae="tiny:mae", maskformer="tiny:maskformer", maskformer_side=64, **change)
    other = RIM(own, store=Store(tmp_path), keep=True)
    bank = other.bank_for("boat, tree", progress=False)
    result = other.segment(tiny_image, "boat, tree")
    assert result.labels.shape == tiny_image.shape[:2] and set(np.unique(result.labels)) <= {0, 1, 2}
    assert (bank.digest == rim.bank_for("boat, tree").digest) == (
        "feature" not in change
    )  # references don't depend on the proposer
    assert other.analysis_key != rim.analysis_key
    assert (RIM(own, store=Store(tmp_path), keep=True).segment(tiny_image, "boat, tree").labels == result.labels).all()


def test_without_a_segmenter_patches_are_regions(tiny, rim, tiny_image):
    bank = rim.bank_for("boat, tree")
    none = RIM(tiny.replace(proposer="none"), encoder=rim.tools.encoder, bank=bank)
    regions = none.analyse(tiny_image)
    refs, (h, w) = bank.references(tiny), regions.grid.shape[1:]
    patches = match_features(regions.grid.flatten(1).T, refs, tiny).labels.reshape(h, w)
    rows, columns = (np.arange(n) * g // n for n, g in zip(tiny_image.shape[:2], (h, w)))
    result = none.segment(tiny_image)
    assert len(regions) == 0 and (result.labels == patches[rows][:, columns]).all()
    with pytest.raises(ValueError, match="uncovered must be"):
        RIM(tiny.replace(proposer="none", uncovered="background"), encoder=rim.tools.encoder, bank=bank).segment(
            tiny_image
        )


def test_one_call_is_the_segmenter_of_its_profile(rim, tiny, monkeypatch):
    from rim import World, segment

    image = World().scene(2_000_008).image
    overrides = {k: v for k, v in tiny.as_dict().items() if k not in ("profile", "store")}
    result = segment(image, "boat, tree", profile="toybox", **overrides)
    assert (result.labels == rim.segment(image, "boat, tree").labels).all()
    monkeypatch.setattr(Tools, "painting_key", property(lambda self: pytest.fail("the models were loaded again")))
    assert (segment(image, "boat, tree", **overrides).labels == result.labels).all()
    with pytest.raises(ValueError, match="unknown setting 'agent'"):
        segment(image, "boat, tree", agent=3)


class Grey:
    "An encoder of one's own: the brightness of cells, in as many channels as asked for."

    name, dim = "grey", 64

    def __init__(self, key=None):
        if key is not None:
            self.key = key

    def features(self, image):
        grid = torch.from_numpy(image.mean(2)).float()[None, None]
        return (
            torch.nn.functional.adaptive_avg_pool2d(grid, 4)[0].expand(self.dim, -1, -1)
            + torch.arange(64.0)[:, None, None]
        )


def test_a_part_is_kept_under_its_own_key(tiny, tmp_path, tiny_image):
    settings, store = tiny.replace(store=str(tmp_path)), Store(tmp_path)
    theirs = RIM(settings, store=store, keep=True)
    width = theirs.bank_for("boat, tree", progress=False).dim
    theirs.analyse(tiny_image)
    for n in (1, 2):
        ours = RIM(settings, encoder=Grey({"name": "grey", "n": n}), store=store, keep=True)
        assert width != 64 == ours.bank_for("boat, tree", progress=False).dim
        assert ours.analyse(tiny_image).features.shape[1] == 64
        assert ours.analysis_key["encoder"] == {"name": "grey", "n": n}
    kept = len(list(store.scan()))
    with pytest.warns(UserWarning, match="a part needs a key.* the encoder has none"):
        unkept = RIM(settings, encoder=Grey(), store=store, keep=True)
        assert unkept.bank_for("boat, tree", progress=False).dim == 64
    assert unkept.analyse(tiny_image).features.shape[1] == 64 and unkept.analysis_key is None
    assert unkept.method("boat, tree").key is None and len(list(store.scan())) == kept
    with pytest.raises(ValueError, match="workers of an engine load the parts of the settings"):
        ReferenceBank.build(
            "moon", settings, store, False, Tools(settings, encoder=Grey({"name": "grey"})), "processes"
        )
