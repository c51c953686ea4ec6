"The embedded models do what their notebooks say, on validation seeds (small samples; the notebooks hold the figures)."

import numpy as np
import pytest
import torch
from rim.base.settings import Settings
from rim.toybox.world import World

pytestmark = pytest.mark.weights
settings, world = Settings.from_profile("toybox"), World()


def test_keys_name_regions_of_scenes():
    from rim.models.loading import load_dino
    from rim.toybox.dino import _scene_accuracy

    assert _scene_accuracy(load_dino(settings), world, n=50)["scenes"] >= 0.8


def test_clip_names_portraits():
    from rim.method.crops import ClipCrops
    from rim.models.loading import load_clip

    crops = ClipCrops(*load_clip(settings), settings.clip_side)
    words = crops.texts([world.portrait(n, 0, 32).caption for n in world.names])
    seeds = world.seeds("validation", 6, start=2000)
    right = [
        (crops.images([world.portrait(n, s).image for s in seeds]) @ words.T).argmax(1) == c
        for c, n in enumerate(world.names)
    ]
    assert torch.cat(right).float().mean() >= 0.8


def test_groups_that_captions_taught_name_things():
    from rim.peers.groupvit import GroupViT

    peer, right = GroupViT.from_profile("toybox"), []
    for scene in (world.scene(s) for s in world.seeds("validation", 12, start=3000)):
        labels = peer.segment(scene.image, world.names, background=world.backgrounds).labels
        right.append(labels[scene.labels > 0] == scene.labels[scene.labels > 0])
    assert np.concatenate(right).mean() >= 0.4


def test_a_point_asks_for_the_thing_under_it():
    from rim.models.loading import load_sam
    from rim.toybox.masks import automatic_recall, _mask_metrics

    sam, own = load_sam(settings), settings.subset("pred_iou_thresh", "stability_score_thresh")
    measured = _mask_metrics(sam, world, n=8, automatic=1)
    assert measured["one_point"] >= 0.7 and measured["five_points"] >= measured["one_point"]
    scenes = [world.scene(s) for s in world.seeds("validation", 2, start=4000)]
    assert automatic_recall(sam, scenes, **own)["automatic_recall"] >= 0.8


def test_prompts_on_several_pictures_are_decoded_as_the_library_decodes_them_one_by_one():
    from rim.models.loading import load_sam
    from rim.toybox.masks import _pixels, _predict

    sam, images = load_sam(settings), np.stack([world.scene(s).image for s in world.seeds("validation", 3)])
    points, labels = torch.tensor([[[40.0, 50]], [[64, 64]], [[90, 30]]]), torch.ones(3, 1)
    embeddings = sam.image_encoder(_pixels(sam, images))
    for multimask in (True, False):
        masks, ious = _predict(sam, embeddings, points, labels, multimask=multimask)
        for i in range(3):
            sparse, dense = sam.prompt_encoder(points=(points[i : i + 1], labels[i : i + 1]), boxes=None, masks=None)
            alone, score = sam.mask_decoder(
                embeddings[i : i + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask
            )
            assert torch.allclose(masks[i], alone[0], atol=1e-3) and torch.allclose(ious[i], score[0], atol=1e-5)


def test_attention_finds_the_thing():
    from rim.models.loading import load_diffusion
    from rim.toybox.diffusion import _attention_metrics

    assert _attention_metrics(load_diffusion(settings), world, 16)["attention_iou"] >= 0.45


def test_words_of_the_toybox_are_single_tokens():
    from rim.models.loading import load_diffusion

    tokenizer = load_diffusion(settings).tokenizer
    assert all(len(tokenizer.tokenize(name)) == 1 for name in world.names)
    assert len(tokenizer.tokenize("platypus")) > 1 and np.all(np.array(tokenizer("é").input_ids) >= 0)


def test_the_masked_autoencoder_paints_what_is_hidden():
    from rim.toybox.mae import _load_autoencoder, _mae_metrics
    from rim.toybox.training import WEIGHTS

    assert _mae_metrics(_load_autoencoder(WEIGHTS), world, n=40)["scene_loss"] <= 0.5


def test_queries_find_things_and_places():
    from rim.models.loading import load_maskformer
    from rim.toybox.maskformer import _segment_metrics

    measured = _segment_metrics(load_maskformer(settings), world, n=30)
    assert measured["recall"] >= 0.4 and measured["place_iou"] >= 0.85
