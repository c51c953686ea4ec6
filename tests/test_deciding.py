"""Which image decided: weights against the score they make up, and the answers without an image against those computed
again."""

import json
from dataclasses import replace
import numpy as np, pytest
from hypothesis import given, settings as budget, strategies as st
from rim.method.bank import ReferenceBank
from rim.method.deciding import name_at, _origin_of, _parts_of, without
from rim.method.matcher import Matcher
from rim.method.segmentation import Segmentation
from rim.method.vocabulary import Vocabulary
from test_confidence import scene


def named(matcher, regions, bank, background):
    "The whole label map as names."
    image, vocabulary = np.zeros((8, 8, 3), np.uint8), Vocabulary(bank.names, background=background)
    result = matcher.predict(image, regions, vocabulary, bank)
    return result, np.array(vocabulary.labels, object)[result.labels]


@pytest.mark.promise(63)
@budget(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.sampled_from(["mean", "smallest"]), st.integers(0, 63))
def test_without_an_image_is_what_computing_again_says(seed, background, voting, pixel):
    matcher, regions, bank, _ = scene(seed, background)
    matcher, x, y = Matcher(matcher.settings.replace(match_voting=voting)), pixel % 8, pixel // 8
    result, names = named(matcher, regions, bank, background)
    decided = result.deciding(x, y, most=3)
    assert decided.name == names[y, x] == name_at(matcher, regions, bank, x, y, (8, 8), background)
    for part in decided.references:
        less = without(bank, part.row, part.negative)
        assert len(less.owner) == len(bank.owner) - 1
        assert part.without == named(matcher, regions, less, background)[1][y, x]


@budget(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.integers(1, 5))
def test_weights_sum_to_one_and_make_up_the_score(seed, background, q):
    matcher, regions, bank, _ = scene(seed, background)
    features = regions.features[[0, 1, 2, 4, 0][:q]]
    scores = matcher.scores(features, bank, background).mean(0)
    for label in range(len(scores)):
        parts = _parts_of(matcher, features, bank, label, "it", background)
        margin = matcher.settings.match_margin * (background and label == 0)
        assert sum(p.weight for p in parts) == pytest.approx(1)
        assert sum(p.weight * p.cosine for p in parts) + margin == pytest.approx(float(scores[label]), abs=1e-5)


def test_a_bank_without_an_image_is_the_bank_of_the_others():
    matcher, _, bank, _ = scene(5)
    rest = without(bank, 7)
    kept = np.delete(np.arange(len(bank.owner)), 7)
    assert rest.names == bank.names and (rest.foreground == bank.foreground[kept]).all()
    assert np.array_equal(rest.background, bank.background[kept], equal_nan=True)
    assert without(bank, 0).names == bank.names[1:], "the only reference of its class"
    held = replace(bank, negatives={"foreground": np.eye(8, dtype=np.float32)}, memory={})
    less = without(held, 3, negative=True)
    assert len(less.negatives["foreground"]) == 7 and less.digest != held.digest


def test_a_decision_is_json_and_names_where_an_image_comes_from():
    matcher, regions, bank, _ = scene(6)
    bank = replace(bank, record={"source": "diffusion"}, memory={})
    result, _ = named(matcher, regions, bank, True)
    y, x = np.argwhere(regions.proposals.masks[[0, 1, 2, 4]].any(0))[0]
    facts = json.loads(json.dumps(result.deciding(int(x), int(y)).as_dict()))
    assert facts["name"] == facts["references"][0]["name"] and 0 < facts["references"][0]["weight"] <= 1
    assert _origin_of(bank, 2) == "generated thing 1 2 of 5"
    assert result.deciding(int(x), int(y))._repr_html_().count("<tr>") == 1 + len(facts["references"])


def test_only_a_result_of_the_matcher_knows_its_images():
    plain = Segmentation(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), int), Vocabulary(("a",)))
    with pytest.raises(ValueError, match="method match"):
        plain.deciding(0, 0)
    matcher, regions, bank, _ = scene(7)
    with pytest.raises(ValueError, match="must lie in the image of 8 x 8"):
        named(matcher, regions, bank, True)[0].deciding(8, 0)
    assert isinstance(bank, ReferenceBank)
