"""The widgets from Python's side: what a browser sends, what it gets back, and the image where there is none.
tests/browser/ has the other side."""

import io, json
import numpy as np, pytest
from PIL import Image

pytest.importorskip("anywidget", reason="NOT TESTED: needs the extra rim[widgets]")
from tiny import MODELS
from rim.method.proposals import foreground_mask
from rim.method.segmentation import Segmentation
from rim.method.segmenter import RIM
from rim.base.settings import Settings
from rim.apps.widgets import ExplainWidget, ForegroundWidget, MatchingWidget, _typical_pixel


@pytest.fixture(scope="module")
def rim():
    rim = RIM(
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
    rim.bank_for("boat, tree", progress=False)
    return rim


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def labels(rim, image):
    return MatchingWidget(rim, image, "boat, tree")


def png_of(widget):
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and data["text/plain"] == repr(widget)
    return Image.open(io.BytesIO(data["image/png"]))


def test_a_click_is_answered(labels):
    why = ExplainWidget(labels.first)
    assert (
        tuple(why.place) == _typical_pixel(labels.first) and why.page == labels.first.explain(*why.place)._repr_html_()
    )
    why.set_state({"place": [5, 6]})  # as it comes from a browser
    assert (
        why.explanation.x == 5 and why.explanation.y == 6 and "(5, 6)" in why.page and why.stage == labels.first.stage()
    )
    assert {"place", "page", "stage", "_esm", "_css"} <= set(why.keys)


def test_values_are_settings(labels, rim, image):
    labels.set_state({"values": {"agents": 1, "subcategories": 1, "painting": "score"}})
    direct = RIM(
        rim.settings.replace(agents=1, subcategories=1, painting="score"), bank=rim.bank_for("boat, tree")
    ).segment(image, "boat, tree")
    assert (labels.result.labels == direct.labels).all() and [r.name for r in labels.result.regions] == [
        r.name for r in direct.regions
    ]
    assert f"{(direct.labels != labels.first.labels).mean():.1%} of the pixels" in labels.page


def test_answers_are_kept(labels, monkeypatch):
    first, calls, own = labels.page, [], MatchingWidget.compute
    monkeypatch.setattr(MatchingWidget, "compute", lambda self, settings: calls.append(1) or own(self, settings))
    for agents in (1, 2, 1, labels.settings.agents):
        labels.values = labels.values | {"agents": agents}
    assert len(calls) == 2 and labels.page == first


@pytest.mark.parametrize(
    "wrong",
    [
        {"agents": 0},
        {"agents": "<b>"},
        {"painting": "size"},
        {"no_such": 1},
        {"<b>": 1},
        {"agents": None},
        {"agents": [1]},
    ],
)
def test_what_settings_refuse_is_answered_in_words(labels, wrong):
    before = labels.result
    labels.set_state({"values": labels.values | wrong})
    assert "setting" in labels.page and "<" not in labels.page and labels.result is before
    labels.set_state({"values": {"agents": 1, "subcategories": 1, "painting": "area"}})
    assert "rim-stage" in labels.page


def test_the_mask_follows_threshold_and_points(rim):
    widget = ForegroundWidget(rim, "boat")
    widget.set_state({"values": {"attention_threshold": 0.05, "attention_points": 1}})
    direct, how = foreground_mask(
        rim.tools.proposer,
        widget.picture_of["image"],
        widget.picture_of["attention"],
        rim.settings.replace(attention_threshold=0.05, attention_points=1),
        widget.seed,
    )
    with pytest.raises(ValueError, match="0 to 3: got 4"):
        ForegroundWidget(rim, "boat", 4)
    assert (
        (widget.result[0] == direct).all() and f"{direct.mean():.0%}" in widget.page and widget.page.count("<img") == 3
    )


def test_each_is_a_picture_elsewhere(labels, rim):
    for widget, size in (
        (ExplainWidget(labels.first), None),
        (labels, labels.first.overlay().size),
        (ForegroundWidget(rim, "tree"), None),
    ):
        picture = png_of(widget)
        assert picture.width > 100 and picture.height > 50 and (size is None or picture.size == size)


def test_the_committed_pictures_are_pictures(root):
    "A view without its kernel would be shown as an error instead of the image beside it."
    cells = json.loads((root / "nbs/apps/02_widgets.ipynb").read_text(encoding="utf-8"))["cells"]
    data = [
        o["data"]
        for c in cells
        for o in c.get("outputs", [])
        if "Widget:" in "".join(o.get("data", {}).get("text/plain", ""))
    ]
    assert len(data) == 3 and all(
        "image/png" in d and "application/vnd.jupyter.widget-view+json" not in d for d in data
    )


def test_a_result_without_regions_can_be_clicked_on(labels):
    first = labels.first
    bare = ExplainWidget(Segmentation(first.image, first.labels, first.vocabulary))
    assert bare.place == [48, 32] and "No region covers" in bare.page and bare.picture().size == first.overlay().size


def test_a_name_that_is_typed_goes_to_the_function_and_its_result_is_shown(labels):
    from rim.apps.correct_widget import CorrectWidget
    from rim.method.corrections import point_at

    first = labels.first
    x, y = _typical_pixel(first)
    widget = CorrectWidget(first, lambda at, name: first.apply_corrections([point_at(first, [at], name)]))
    before = widget.stage
    assert widget.names == list(first.vocabulary.labels)
    other = next(n for n in first.vocabulary.labels if n != first.vocabulary.labels[first.labels[y, x]])
    widget.set_state({"said": [other, x, y, 1]})  # as it comes from a browser
    assert widget.segmentation.vocabulary.labels[widget.segmentation.labels[y, x]] == other
    assert widget.stage != before and other in widget.page
    widget.set_state({"said": ["", x, y, 2]})
    assert widget.page and widget.segmentation.vocabulary.labels[widget.segmentation.labels[y, x]] == other, "refused"
