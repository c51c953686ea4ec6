"""Keys against the library's own last layer, pooling against a naive loop, CLIP against the library's outputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as hyp, strategies as st

from rim.method.crops import ClipCrops
from rim.method.features import (
    ClipPatches,
    DiffusionFeatures,
    DinoKeys,
    EfficientNetFeatures,
    MaeKeys,
    blocks,
    encoder_key,
    _patch_grid,
    projection,
    to_input,
)
from rim.method.pooling import pool, pool_complement, resize_masks
from rim.method.tools import Tools
from rim.models.loading import load_clip, load_diffusion, load_dino, load_efficientnet, load_mae
from rim.base.settings import Settings
from rim.toybox.world import World


@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile("toybox", pretrained=False, dino="tiny:dino", clip="tiny:clip", device="cpu")


@pytest.fixture(scope="module")
def dino(settings):
    return load_dino(settings)


@pytest.fixture(scope="module")
def clip(settings):
    return ClipCrops(*load_clip(settings), side=32)


@pytest.fixture
def image(rng):
    return rng.integers(0, 255, (48, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [64, 96, 128])
def test_keys_equal_the_library_last_layer(dino, image, side):
    kept, encoder = [], DinoKeys(dino, side)
    hook = projection(blocks(dino)[-1]).register_forward_hook(lambda m, i, o: kept.append(o))
    h, w = _patch_grid(image.shape[:2], side, 8)
    with torch.no_grad():
        dino(to_input(image, (h * 8, w * 8))[None])
    hook.remove()
    ours = encoder.features(image)
    assert ours.shape == (encoder.dim, h, w) and ours.dtype == torch.float32 and max(h, w) == side // 8
    assert torch.allclose(ours.flatten(1).T, kept[0][0, 1:], atol=1e-6)


def test_nothing_after_the_keys_runs(dino, image):
    def fail(*_):
        raise AssertionError("ran")

    last = dino.encoder.layer[-1]
    hooks = [m.register_forward_pre_hook(fail) for m in (last, last.attention, last.norm2, last.mlp, dino.layernorm)]
    DinoKeys(dino, 64).features(image)
    for h in hooks:
        h.remove()


def test_batches_equal_single_images(dino, image):
    encoder = DinoKeys(dino, 64)
    both = encoder.batch([image, image[::-1]])
    for grid, one in zip(both, (image, image[::-1])):
        assert torch.allclose(grid, encoder.features(one), atol=1e-5)
    with pytest.raises(ValueError, match="one size"):
        encoder.batch([image, image[1:]])


@given(st.integers(1, 900), st.integers(1, 900), st.integers(14, 600), st.sampled_from([8, 14, 16]))
def test_patch_grid_keeps_side_and_aspect(h, w, side, patch):
    grid = _patch_grid((h, w), side, patch)
    assert max(grid) == max(1, round(side / patch)) and min(grid) >= 1
    for cells, length in zip(grid, (h, w)):
        assert abs(cells - max(1, length * side / max(h, w) / patch)) <= 0.5 + 1e-9


def test_input_is_imagenet_normalised(image):
    x = to_input(image, image.shape[:2])
    assert torch.allclose(
        x * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.from_numpy(image).permute(2, 0, 1) / 255,
        atol=1e-6,
    )


@hyp(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_mask_resize_equals_interpolate(H, W, h, w, seed):
    masks = torch.rand(3, H, W, generator=torch.Generator().manual_seed(seed)) > 0.5
    expected = F.interpolate(masks[None].float(), (h, w), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(resize_masks(masks, (h, w)), expected, atol=1e-5)


def naive(features, weights):
    total, out = 0.0, np.zeros(len(features))
    for y in range(weights.shape[0]):
        for x in range(weights.shape[1]):
            total += float(weights[y, x])
            out += float(weights[y, x]) * features[:, y, x].numpy().astype(np.float64)
    return out / total


def test_pooling_equals_a_naive_loop(rng):
    features = torch.from_numpy(rng.normal(size=(5, 6, 9)).astype(np.float32))
    masks = rng.random((4, 40, 57)) > 0.6
    weights = F.interpolate(torch.from_numpy(masks)[None].float(), (6, 9), mode="bilinear")[0]
    for (pooled, valid), w in ((pool(features, masks), weights), (pool_complement(features, masks), 1 - weights)):
        assert valid.all() and pooled.dtype == torch.float32
        assert np.allclose(pooled, [naive(features, m) for m in w], atol=1e-5)


def test_empty_full_and_broken():
    features = torch.ones(3, 4, 4)
    masks = np.stack([np.zeros((16, 16), bool), np.ones((16, 16), bool)])
    assert pool(features, masks)[1].tolist() == [False, True] and pool_complement(features, masks)[1].tolist() == [
        True,
        False,
    ]
    assert (pool(features, masks)[0][0] == 0).all()
    features[0, 0, 0] = float("nan")
    assert not pool(features, masks)[1].any()
    assert pool(features, np.zeros((0, 16, 16), bool))[0].shape == (0, 3)


def test_clip_equals_the_library(clip, image):
    pixels = torch.stack(
        [to_input(image, (32, 32), clip.processor.image_processor.image_mean, clip.processor.image_processor.image_std)]
    )
    prompts = ["a photo of a boat", "sofa"]
    tokens = clip.processor.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(pixel_values=pixels, **tokens)
    assert torch.allclose(clip.images([image]), out.image_embeds, atol=1e-5) and torch.allclose(
        clip.texts(prompts), out.text_embeds, atol=1e-5
    )


def test_clip_batches_and_lengths(clip, image):
    crops = [image, image[:10], image[:, :3], image[:1, :1]]
    all_ = clip.images(crops)
    assert torch.allclose(all_.norm(dim=1), torch.ones(4), atol=1e-5)
    clip.batch = 3
    assert torch.allclose(clip.images(crops), all_, atol=1e-5) and clip.images([]).shape == (0, 32)
    assert clip.texts(["x" * 60]).shape == (1, 32)
    with pytest.raises(ValueError, match="cut off"):
        clip.texts(["x" * 500])


# the other encoders of Table 3


@pytest.fixture(scope="module")
def table3():
    return Settings.from_profile(
        "toybox",
        pretrained=False,
        device="cpu",
        **{role: f"tiny:{role}" for role in ("dino", "clip", "mae", "diffusion", "sam", "efficientnet")},
    )


@pytest.mark.parametrize("side", [64, 96])  # the size of the table of positions, and another
def test_mae_keys_equal_the_library_with_nothing_hidden(table3, image, side):
    model, kept = load_mae(table3), []
    encoder = MaeKeys(model, side)
    image = image[:, :48] if side == 64 else image
    pixels = encoder._input(image)[None]
    model.embeddings.config.mask_ratio = 0.0
    hook = projection(blocks(model)[-1]).register_forward_hook(lambda m, i, o: kept.append(o))
    order = torch.arange(pixels.shape[-2] * pixels.shape[-1] // 64)[None]
    with torch.no_grad():
        model(pixels, noise=order, interpolate_pos_encoding=side != 64)
    hook.remove()
    ours = encoder.features(image)
    assert ours.shape == (32, *_patch_grid(image.shape[:2], side, 8)) and ours.dtype == torch.float32
    assert torch.allclose(ours.flatten(1).T, kept[0][0, 1:], atol=1e-5)


@pytest.mark.parametrize("what", ["keys", "values", "tokens"])
def test_clip_patches_equal_the_library(table3, image, what):
    model, processor = load_clip(table3)
    encoder, kept, last = ClipPatches(model, processor, 64, kind=what), {}, model.vision_model.encoder.layers[-1]
    hooks = [
        m.register_forward_hook(lambda m, i, o, k=k: kept.__setitem__(k, o))
        for k, m in (("keys", last.self_attn.k_proj), ("v", last.self_attn.v_proj))
    ]
    with torch.no_grad():
        final = model.vision_model(encoder._input(image)[None], interpolate_pos_encoding=True).last_hidden_state

        def shared(x):
            return model.visual_projection(model.vision_model.post_layernorm(x))

        expected = {
            "keys": lambda: kept["keys"],
            "values": lambda: shared(last.self_attn.out_proj(kept["v"])),
            "tokens": lambda: shared(final),
        }[what]()
    for hook in hooks:
        hook.remove()
    ours = encoder.features(image)
    assert ours.shape == (encoder.dim, *_patch_grid(image.shape[:2], 64, 8)) and torch.allclose(
        ours.flatten(1).T, expected[0, 1:], atol=1e-5
    )


@pytest.mark.parametrize("block", [0, 1])
def test_diffusion_features_equal_the_pipelines_own_parts(table3, image, block):
    pipeline = load_diffusion(table3)
    encoder, kept = DiffusionFeatures(pipeline, 64, 261, block), []
    x = encoder._input(image)[None]
    assert x.min() >= -1 and x.max() <= 1
    with torch.no_grad():
        clean = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
        noise = encoder.noise(image, clean.shape[1:])[None]
        alpha = pipeline.scheduler.alphas_cumprod[261]
        noisy = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        prompt, _ = pipeline.encode_prompt("", "cpu", 1, False)
        hook = pipeline.unet.up_blocks[block].register_forward_hook(lambda m, i, o: kept.append(o))
        pipeline.unet(noisy, 261, encoder_hidden_states=prompt)
        hook.remove()
    ours = encoder.features(image)
    assert ours.shape == (encoder.dim, *kept[0].shape[2:]) and torch.allclose(ours, kept[0][0], atol=1e-5)


def test_noise_belongs_to_the_picture(table3, image):
    encoder = DiffusionFeatures(load_diffusion(table3), 64)
    other = image[::-1].copy()
    both = encoder.batch([image, other])
    assert torch.allclose(both[0], encoder.features(image), atol=1e-5) and torch.allclose(
        both[1], encoder.features(other), atol=1e-5
    )
    shape = (4, 8, 8)
    assert not torch.equal(encoder.noise(image, shape), encoder.noise(other, shape))
    assert not torch.equal(
        encoder.noise(image, shape), DiffusionFeatures(encoder.pipeline, 64, seed=1).noise(image, shape)
    )
    with pytest.raises(ValueError, match="sd_block must be 0 to 1"):
        DiffusionFeatures(encoder.pipeline, 64, block=2)


@pytest.mark.parametrize(
    "feature, change",
    [
        ("sd", dict(sd_timestep=1)),
        ("sd", dict(sd_block=1)),
        ("sd", dict(sd_scale=1)),
        ("clip", dict(feature_kind="tokens")),
        ("mae", dict(seed=1)),
        ("mae", dict(feature_layer="2")),
        ("dino", dict(feature_kind="values")),
        ("efficientnet", dict(feature_layer="head")),
    ],
)
def test_a_key_names_what_the_encoder_reads(table3, feature, change):
    own = table3.replace(feature=feature)
    assert encoder_key(own) == encoder_key(own.replace(agents=2)) and encoder_key(own) != encoder_key(
        own.replace(**change)
    )
    assert encoder_key(table3) == encoder_key(table3.replace(sd_timestep=1))
    convolutional = table3.replace(feature="efficientnet")
    assert encoder_key(convolutional) == encoder_key(convolutional.replace(feature_kind="tokens"))


@pytest.mark.parametrize("kind", ["keys", "values", "tokens"])
@pytest.mark.parametrize("layer", [1, 3])
def test_any_layer_of_dino_is_the_library_s(dino, image, layer, kind):
    encoder, kept, block = DinoKeys(dino, 64, str(layer), kind), [], blocks(dino)[layer - 1]
    part = block if kind == "tokens" else projection(block, kind)
    hook = part.register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.no_grad():
        dino(encoder._input(image)[None])
        hook.remove()
        expected = dino.layernorm(kept[0]) if kind == "tokens" else kept[0]
    assert torch.allclose(encoder.features(image).flatten(1).T, expected[0, 1:], atol=1e-5)


@pytest.mark.parametrize("layer", ["0", "4", "head", "first"])
def test_a_layer_that_is_not_there_is_refused(dino, layer):
    with pytest.raises(ValueError, match=f"last or 1 to 3, .* got '{layer}'"):
        DinoKeys(dino, 64, layer)


def test_the_head_of_the_efficientnet_is_what_the_classifier_reads(table3, image):
    network = load_efficientnet(table3)
    encoders = {layer: EfficientNetFeatures(network, 64, layer) for layer in ("1", "5", "last", "head", "logits")}
    assert [e.patch for e in encoders.values()] == [2, 16, 32, 32, 32]
    with torch.no_grad():
        scores = network(encoders["last"]._input(image)[None])[0]
    grids = {layer: encoder.features(image) for layer, encoder in encoders.items()}
    assert all(grids[layer].shape[0] == encoder.dim for layer, encoder in encoders.items())
    assert torch.allclose(grids["logits"].mean((1, 2)), scores, atol=1e-5)
    assert torch.allclose(network.classifier(grids["head"].mean((1, 2))), scores, atol=1e-5)
    with pytest.raises(ValueError, match="last, head, logits or 1 to 7"):
        EfficientNetFeatures(network, 64, "8")


@pytest.mark.weights
@pytest.mark.parametrize("feature", ["dino", "clip", "mae", "sd"])
def test_features_are_the_same_bits_with_any_number_of_threads(feature):
    "In the toybox's Table 3 a last bit was worth .05 mIoU."
    encoder = Tools(Settings.from_profile("toybox", device="cpu", feature=feature, fusion="")).region_encoder
    images, before, seen = [World().scene(1_000_000 + i).image for i in range(2)], torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append([encoder.features(image) for image in images])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other))
