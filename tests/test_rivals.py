"""The rival sees masked crops, and nothing else."""

import numpy as np, pytest, torch
from tiny import MODELS
from rim.measure.rivals import ClipCrop, masked_crop
from rim.method.segmentation import mask_box
from rim.base.settings import Settings
from rim.method.vocabulary import Vocabulary
from rim.method.proposals import Proposals
from rim.method.regions import Regions


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile(
        "toybox",
        **MODELS,
        points_per_side=4,
        pred_iou_thresh=0,
        stability_score_thresh=0,
    )


class Reds:
    "Stands in for CLIP: a crop's embedding is how red and how bright it is, a text's is what it names."

    def images(self, crops):
        return torch.nn.functional.normalize(
            torch.tensor([[c[..., 0].mean() - c[..., 1].mean(), c[..., 1].mean() + 1] for c in crops]).reshape(-1, 2),
            dim=1,
        )

    def texts(self, prompts):
        return torch.tensor(
            [
                [1.0, 0.0] if "fire" in p or "flame" in p else [0.0, 1.0] if "grey" in p else [-0.6, -0.8]
                for p in prompts
            ]
        )


def test_crop(tiny_image, tiny_masks):
    crop = masked_crop(tiny_image, tiny_masks[2], mask_box(tiny_masks[1]))
    assert crop.shape == (10, 12, 3) and (crop[:5] == (220, 30, 30)).all() and (crop[5:] == 0).all()


def regions_of(masks):
    boxes = np.array([mask_box(m) for m in masks], np.float32).reshape(-1, 4) - [0, 0, 1, 1]
    return Regions(
        Proposals(masks, boxes, np.ones(len(masks)), np.ones(len(masks))),
        torch.zeros(len(masks), 1),
        torch.zeros(1, 1, 1),
    )


def test_finds_the_red_square(tiny, tiny_image, tiny_masks):
    masks = np.stack([~tiny_masks[1], tiny_masks[1]])
    result = ClipCrop(tiny, crops=Reds()).predict(tiny_image, regions_of(masks), Vocabulary.of("fire, grey"))
    assert (result.labels == np.where(tiny_masks[1], 1, 2)).all() and [r.name for r in result.regions] == [
        "grey",
        "fire",
    ]


def test_synonyms_take_the_best(tiny, tiny_image, tiny_masks):
    result = ClipCrop(tiny, crops=Reds()).predict(
        tiny_image, regions_of(tiny_masks[1:2]), Vocabulary.of("sofa|flame, grey")
    )
    assert result.regions[0].name == "sofa"


def test_no_proposal(tiny, tiny_image):
    rival, none = ClipCrop(tiny, crops=Reds()), regions_of(np.zeros((0, 24, 32), bool))
    assert (rival.predict(tiny_image, none, Vocabulary.of("fire, grey")).labels == 0).all()
    assert (
        rival.predict(tiny_image, none, Vocabulary.of("fire, grey", background=False)).labels == 1
    ).all()  # the whole image's class


def test_end_to_end(tiny, tiny_image):
    result = ClipCrop(tiny).segment(tiny_image, "boat, tree")
    assert result.labels.shape == (24, 32) and result.record["unmatched"] == 0
