"""Captured attention against an explicit softmax(QK^T), on a real UNet; pictures that depend on their own seed alone."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from rim import synthesis
from rim.models import load_diffusion
from rim.settings import Settings
from rim.synthesis import AttentionCapture, class_tokens, image_seed, synthesise

@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile("toybox", pretrained=False, diffusion="tiny:diffusion", device="cpu", denoising_steps=2, synthesis_batch=4)

@pytest.fixture(scope="module")
def pipeline(settings): return load_diffusion(settings)

@pytest.fixture
def unet(pipeline): return pipeline.unet

def inputs(batch, size=(16, 16)):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *size, generator=g), 300, torch.randn(batch, 77, 32, generator=g)

def explicit(unet, x, t, context, tokens):
    "Eq. 1-3 written out: per layer softmax(QK^T / sqrt d) of every head, mean over heads and tokens, own maximum, resize, mean."
    seen, handles = [], []
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(layer.register_forward_pre_hook(lambda m, a, k: seen.append((m, a[0], k["encoder_hidden_states"])), with_kwargs=True))
    unet(x, t, encoder_hidden_states=context)
    for h in handles: h.remove()
    out = torch.zeros(len(tokens), *x.shape[-2:])
    for layer, hidden, text in seen:
        for b, chosen in enumerate(tokens, start=len(x) - len(tokens)):
            q, k = hidden[b] @ layer.to_q.weight.T, text[b] @ layer.to_k.weight.T
            d, level = q.shape[1] // layer.heads, round(math.log(x.shape[-1] * x.shape[-2] / len(q), 4))
            probability = torch.stack([((q[:, i * d:(i + 1) * d] @ k[:, i * d:(i + 1) * d].T) / math.sqrt(d)).softmax(1) for i in range(layer.heads)])
            s = probability.mean(0)[:, chosen].mean(1).view(x.shape[-2] >> level, x.shape[-1] >> level)
            out[b - len(x) + len(tokens)] += F.interpolate((s / s.max())[None, None], x.shape[-2:], mode="bilinear")[0, 0]
    out /= len(seen)
    return out / out.amax((1, 2), keepdim=True)

@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@pytest.mark.parametrize("tokens", [[[4]], [[4, 5], [7]]])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_capture_equals_explicit_softmax_and_leaves_the_output(unet, tokens, guided, size, processor):
    unet.set_attn_processor(processor())
    x, t, context = inputs(len(tokens) * (1 + guided), size)
    with torch.no_grad():
        plain = unet(x, t, encoder_hidden_states=context).sample
        with AttentionCapture(unet, tokens) as capture: heard = unet(x, t, encoder_hidden_states=context).sample
        assert torch.equal(plain, heard)
        assert torch.allclose(capture.maps(), explicit(unet, x, t, context, tokens), atol=2e-6)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())

@torch.no_grad()
def test_steps_and_resolutions_are_averaged(unet):
    x, t, context = inputs(2)
    with AttentionCapture(unet, [[3]]) as both:
        for s in (1, 2): unet(x * s, t, encoder_hidden_states=context)
    single = []
    for s in (1, 2):
        with AttentionCapture(unet, [[3]]) as one: unet(x * s, t, encoder_hidden_states=context)
        single.append(one)
    assert both.count == 2 * len(both.layers) == 14
    for grid in both.sums: assert torch.allclose(both.sums[grid], single[0].sums[grid] + single[1].sums[grid], atol=1e-5)
    with AttentionCapture(unet, [[3]], resolutions=(8,)) as coarse: unet(x, t, encoder_hidden_states=context)
    assert list(coarse.sums) == [(8, 8)] and torch.allclose(coarse.sums[8, 8], single[0].sums[8, 8])
    with AttentionCapture(unet, [[3]], resolutions=(5,)) as none: unet(x, t, encoder_hidden_states=context)
    with pytest.raises(ValueError, match=r"\(5,\)"): none.maps()

@torch.no_grad()
def test_refusals(unet):
    x, t, context = inputs(2)
    with AttentionCapture(unet, [[3]] * 3), pytest.raises(ValueError, match="3 pictures"): unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[77]]), pytest.raises(ValueError, match="77"): unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[]]), pytest.raises(ValueError, match="tokens"): unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[3]]) as capture, pytest.raises(RuntimeError, match="heard once"):
        capture.handles.pop().remove()
        unet(x, t, encoder_hidden_states=context)
    with pytest.raises(ValueError, match="none"): AttentionCapture(torch.nn.Linear(1, 1), [[3]])

def test_capture_of_the_paper_unet_hears_sixteen_layers():
    with torch.device("meta"): unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    assert len(AttentionCapture(unet, [[1]]).layers) == 16

def test_class_tokens(pipeline):
    tokenizer = pipeline.tokenizer
    for prompt, name in [("a photo of a dog", "dog"), ("a photo of a hot dog", "hot dog"), ("a dog, a photo of a dog", "dog"), ("a photo of a", "a"),
                         ("ein Foto: Überbär!", "Überbär")]:
        at = class_tokens(tokenizer, prompt, name)
        ids = tokenizer(prompt).input_ids
        assert [ids[i] for i in at] == tokenizer(name, add_special_tokens=False).input_ids
        assert at[-1] - at[0] == len(at) - 1
    assert class_tokens(tokenizer, "a dog, a photo of a dog", "dog")[0] > 5
    with pytest.raises(ValueError, match="cut off"): class_tokens(tokenizer, "a photo of a " + "x" * 100, "x" * 100)
    with pytest.raises(ValueError, match="cat"): class_tokens(tokenizer, "a photo of a dog", "cat")
    with pytest.raises(ValueError, match="at least one token"): class_tokens(tokenizer, "a photo of  ", " ")

def test_image_seeds_differ():
    seeds = {image_seed(s, n, k, r) for s in (0, 1) for n in ("a", "b", "a1") for k in (0, 1, 11) for r in (0, 1)}
    assert len(seeds) == 36 and all(0 <= s < 2**63 for s in seeds)
    assert image_seed(0, "sofa", 0) == 2698785263126252627

ITEMS = [(f"a photo of a {name}", name, k) for name in ("boat", "sofa bed", "tree") for k in range(2)]

def test_pictures_do_not_depend_on_batch_or_order(pipeline, settings):
    batched = {(r.name, r.index): r for r in synthesise(pipeline, ITEMS, settings)}
    single = {(r.name, r.index): r for r in synthesise(pipeline, ITEMS[::-1], settings.replace(synthesis_batch=1))}
    assert batched.keys() == single.keys() and len(batched) == 6
    for key, a in batched.items():
        b = single[key]
        assert a.seed == b.seed and np.abs(a.image.astype(int) - b.image).max() <= 1 and np.abs(a.attention - b.attention).max() < 1e-4
        assert a.image.dtype == np.uint8 and a.attention.dtype == np.float32 and a.attention.max() == 1 and a.attention.min() >= 0
    assert not np.array_equal(batched["boat", 0].image, batched["boat", 1].image)

def test_the_loop_equals_the_library_pipeline(pipeline, settings):
    reference, = synthesise(pipeline, ITEMS[:1], settings)
    generator = torch.Generator().manual_seed(reference.seed)
    theirs = pipeline(ITEMS[0][0], height=64, width=64, num_inference_steps=2, guidance_scale=settings.guidance, generator=generator, output_type="np").images[0]
    assert np.abs(theirs * 255 - reference.image).max() <= 1

@pytest.mark.parametrize("scheduler, extra", [("PNDMScheduler", {"skip_prk_steps": True}), ("EulerAncestralDiscreteScheduler", {})])
def test_other_schedulers(settings, scheduler, extra):
    import diffusers
    pipeline = load_diffusion(settings)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **extra)
    a, b = list(synthesise(pipeline, ITEMS[:2], settings)), list(synthesise(pipeline, ITEMS[1:2], settings))
    assert np.abs(a[1].image.astype(int) - b[0].image).max() <= 1

def test_without_guidance_and_with_bad_size(pipeline, settings):
    reference, = synthesise(pipeline, ITEMS[:1], settings.replace(guidance=1))
    assert reference.attention.shape == (16, 16)
    with pytest.raises(ValueError, match="66"): list(synthesise(pipeline, ITEMS[:1], settings.replace(image_size=66)))

@pytest.mark.promise(13)
def test_degenerate_pictures_are_drawn_again_and_counted(pipeline, settings, monkeypatch):
    real, bad = synthesis.decode, {image_seed(0, "boat", 1), image_seed(0, "tree", 0), image_seed(0, "tree", 0, 1)}
    real_noise, current = synthesis.first_noise, []
    def noise(pipeline, generators, side):
        current[:] = [g.initial_seed() for g in generators]
        return real_noise(pipeline, generators, side)
    def decode(*args):
        pictures = real(*args).copy()
        for i, seed in enumerate(current):
            if seed in bad: pictures[i] = 0
        return pictures
    monkeypatch.setattr(synthesis, "first_noise", noise); monkeypatch.setattr(synthesis, "decode", decode)
    made = list(synthesise(pipeline, ITEMS, settings))
    assert [(r.name, r.index) for r in made] == [(n, k) for _, n, k in ITEMS]
    assert [r.redraws for r in made] == [0, 1, 0, 0, 2, 0] and not any(r.degenerate for r in made)
    assert made[4].seed == image_seed(0, "tree", 0, 2)
    given_up = list(synthesise(pipeline, ITEMS, settings.replace(redraws=1)))
    assert [r.degenerate for r in given_up] == [False] * 4 + [True, False] and given_up[4].redraws == 1

@pytest.mark.promise(13)
def test_nan_is_degenerate(settings):
    picture, attention = np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.eye(4, dtype=np.float32)
    assert not synthesis.is_degenerate(picture, attention, settings)
    assert synthesis.is_degenerate(picture, attention * np.nan, settings) and synthesis.is_degenerate(picture, attention * 0, settings)
