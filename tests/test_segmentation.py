"""The result: files that say what the label map says, and an image of it."""

import json
import numpy as np, pytest
from PIL import Image
from rim.method.overlay import draw_overlay, _label_edges
from rim.method.segmentation import Method, Region, Segmentation, from_rle, label_image, mask_box, to_rle
from rim.method.vocabulary import Vocabulary


@pytest.fixture
def result(tiny_image, tiny_masks):
    vocabulary = Vocabulary.of("boat, tree")
    return Segmentation(
        tiny_image,
        tiny_masks[1] * 2,
        vocabulary,
        (
            Region(
                tiny_masks[1], mask_box(tiny_masks[1]), 2, "tree", 0.75, ("tree", "boat"), {"tree": 0.75, "boat": 0.5}
            ),
        ),
        {"proposals": 1},
    )


def test_rle_round_trip(rng):
    for share in (0, 0.3, 1):
        mask = rng.random((17, 31)) < share
        assert (from_rle(to_rle(mask)) == mask).all()


def test_mask_box(tiny_masks):
    assert mask_box(tiny_masks[1]) == (8, 6, 20, 16) and mask_box(np.zeros((3, 3), bool)) == (0, 0, 0, 0)


def test_edges():
    assert _label_edges(np.array([[0, 0, 1], [0, 0, 1]])).tolist() == [[False, True, False], [False, True, False]]


def test_legend(result):
    assert [(i, n) for i, n, _ in result.legend] == [(0, "background"), (2, "tree")] and sum(
        s for *_, s in result.legend
    ) == pytest.approx(1)


def test_the_legend_has_the_colours_of_the_image():
    "Over middle grey, which the legend assumes; on any other ground the hue is the same."
    from rim.measure.grids import add_classes, overlay_grid

    vocabulary, labels = Vocabulary(("boat", "tree", "sun")), np.repeat(np.arange(4), 8)[None].repeat(16, 0)
    drawn = draw_overlay(np.full((16, 32, 3), 128, np.uint8), labels, vocabulary.palette(), side=16)
    shown = [np.asarray(drawn)[8, 8 * label + 4] for label in (1, 2, 3)]
    fig = add_classes(overlay_grid([[np.asarray(drawn)]]), vocabulary, range(4))
    patches = [np.round(255 * np.array(patch.get_facecolor()[:3])) for patch in fig.legends[0].get_patches()]
    assert np.abs(np.array(shown, float) - patches).max() <= 1 and len({tuple(colour) for colour in patches}) == 3


def test_shows_itself(result):
    bare, named = result.overlay(legend=False), result.overlay(legend=False, names=True)
    assert (
        result.overlay().width > bare.width == named.width
        and bare.width % 32 == 0
        and bare.tobytes() != named.tobytes()
    )
    assert result._repr_html_().count("<path") == 1 and "<title>tree 0.750</title>" in result._repr_html_()


def test_save(result, tmp_path):
    paths = result.save(tmp_path / "out", "photo")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo.json", "photo.png", "photo_overlay.png"]
    labels = Image.open(paths["labels"])
    facts = json.loads(paths["regions"].read_text())
    assert labels.mode == "P" and (np.asarray(labels) == result.labels).all()
    assert (
        facts["regions"][0]["class"] == "tree"
        and facts["regions"][0]["area"] == 120
        and (from_rle(facts["regions"][0]["segmentation"]) == result.regions[0].mask).all()
    )


@pytest.mark.parametrize("stem", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a\0b"])
def test_no_path_escapes(result, tmp_path, stem):
    with pytest.raises(ValueError, match="plain name"):
        result.save(tmp_path, stem)
    assert not list(tmp_path.iterdir())


def test_many_labels():
    image = label_image(np.array([[0, 300]]), np.zeros((301, 3)))
    assert np.asarray(image).tolist() == [[0, 300]]


def test_method_calls_both_halves():
    assert (
        Method(lambda image, a: (image, a), lambda image: image * 2)(3) == (3, 6)
        and Method(lambda image, a: a)(3) is None
    )
