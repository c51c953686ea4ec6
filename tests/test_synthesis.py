"""Captured attention against an explicit softmax(QK^T), on a real UNet; images that depend on their own seed
alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from rim.method import synthesis
from rim.method.tools import Tools
from rim.models.loading import load_diffusion
from rim.models.marked_attention import fusible
from rim.base.settings import Settings
from rim.method.vocabulary import Vocabulary
from rim.method.synthesis import AttentionCapture, class_tokens, cached_prompt, image_seed, synthesise


@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile(
        "toybox", pretrained=False, diffusion="tiny:diffusion", device="cpu", denoising_steps=2, synthesis_batch=4
    )


@pytest.fixture(scope="module")
def pipeline(settings):
    return load_diffusion(settings)


@pytest.fixture
def unet(pipeline):
    return pipeline.unet


def inputs(batch, size=(16, 16)):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *size, generator=g), 300, torch.randn(batch, 77, 32, generator=g)


def explicit(unet, x, t, context, tokens):
    """Eq. 1-3 written out: per layer softmax(QK^T / sqrt d) of every head, mean over heads and tokens, own maximum,
    resize, mean."""
    seen, handles = [], []
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(
                layer.register_forward_pre_hook(
                    lambda m, a, k: seen.append((m, a[0], k["encoder_hidden_states"])), with_kwargs=True
                )
            )
    unet(x, t, encoder_hidden_states=context)
    for h in handles:
        h.remove()
    out = torch.zeros(len(tokens), *x.shape[-2:])
    for layer, hidden, text in seen:
        for b, chosen in enumerate(tokens, start=len(x) - len(tokens)):
            q, k = hidden[b] @ layer.to_q.weight.T, text[b] @ layer.to_k.weight.T
            d, level = q.shape[1] // layer.heads, round(math.log(x.shape[-1] * x.shape[-2] / len(q), 4))
            probability = torch.stack(
                [
                    ((q[:, i * d : (i + 1) * d] @ k[:, i * d : (i + 1) * d].T) / math.sqrt(d)).softmax(1)
                    for i in range(layer.heads)
                ]
            )
            s = probability.mean(0)[:, chosen].mean(1).view(x.shape[-2] >> level, x.shape[-1] >> level)
            out[b - len(x) + len(tokens)] += F.interpolate((s / s.max())[None, None], x.shape[-2:], mode="bilinear")[
                0, 0
            ]
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
        with AttentionCapture(unet, tokens) as capture:
            heard = unet(x, t, encoder_hidden_states=context).sample
        assert torch.equal(plain, heard)
        assert torch.allclose(capture.maps(), explicit(unet, x, t, context, tokens), atol=2e-6)
        assert len(capture.processors) == (7 if processor is AttnProcessor2_0 else 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert all(type(p) is processor for p in unet.attn_processors.values())


def stable_diffusion_unet(dtype=torch.float32):
    """Stable Diffusion's UNet in everything but depth and width: four resolutions, eight heads of 16 or 32, a prompt of
    width 768; random weights."""
    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(128, 128, 256, 256),
            layers_per_block=1,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        .eval()
        .to(dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_fused_maps_are_those_of_a_second_softmax(dtype):
    unet, g = stable_diffusion_unet(dtype), torch.Generator().manual_seed(2)
    x, context = torch.randn(4, 4, 16, 16, generator=g).to(dtype), torch.randn(4, 77, 768, generator=g).to(dtype)
    maps, captures = {}, {fused: AttentionCapture(unet, [[5], [5, 6, 7]], fused=fused) for fused in (True, False)}
    plain = unet(x, 300, encoder_hidden_states=context).sample
    for fused, capture in captures.items():
        with capture:
            assert torch.equal(unet(x, 300, encoder_hidden_states=context).sample, plain)
        assert capture.count == len(capture.layers) == 10
        maps[fused] = capture.maps()
        assert maps[fused].dtype == torch.float32
    assert len(captures[True].processors) == 10 and not captures[False].processors
    if dtype == torch.float32:
        assert (maps[True] - maps[False]).abs().max() < 2e-6
    else:  # both round to bfloat16 on the way: the fused maps are the ones nearer to those of float32
        with AttentionCapture(unet.float(), [[5], [5, 6, 7]], fused=False) as exact:
            unet(x.float(), 300, encoder_hidden_states=context.float())
        errors = {fused: (m - exact.maps()).abs().max() for fused, m in maps.items()}
        assert errors[True] < 0.03 and errors[True] < 1.2 * errors[False]


@torch.no_grad()
def test_the_maps_of_a_picture_do_not_depend_on_its_batch():
    unet, g = stable_diffusion_unet(), torch.Generator().manual_seed(2)
    x, context, tokens = (
        torch.randn(3, 4, 16, 16, generator=g),
        torch.randn(3, 77, 768, generator=g),
        [[5], [5, 6], [9]],
    )
    with AttentionCapture(unet, tokens) as batch:
        unet(x, 300, encoder_hidden_states=context)
    for i in range(3):
        with AttentionCapture(unet, tokens[i : i + 1]) as one:
            unet(x[i : i + 1], 300, encoder_hidden_states=context[i : i + 1])
        assert (one.maps()[0] - batch.maps()[i]).abs().max() < 2e-6


@torch.no_grad()
def test_layers_of_another_kind_are_heard_beside(unet):
    x, t, context = inputs(2)
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    layers[1].processor, layers[2].residual_connection = AttnProcessor(), True
    try:
        plain, before = unet(x, t, encoder_hidden_states=context).sample, [layer.processor for layer in layers]
        with AttentionCapture(unet, [[3]]) as capture:
            assert torch.equal(unet(x, t, encoder_hidden_states=context).sample, plain)
        assert len(capture.processors) == len(layers) - 2 and capture.count == len(layers)
        assert (capture.maps() - explicit(unet, x, t, context, [[3]])).abs().max() < 2e-6
        assert [layer.processor for layer in layers] == before
    finally:
        layers[1].processor, layers[2].residual_connection = AttnProcessor2_0(), False
    for unusual in (
        dict(qk_norm="rms_norm"),
        dict(norm_num_groups=4),
        dict(cross_attention_norm="layer_norm"),
        dict(rescale_output_factor=2.0),
        dict(scale_qk=False),
    ):
        assert not fusible(Attention(32, **unusual))


@torch.no_grad()
def test_another_prompt_is_noticed(unet):
    x, t, context = inputs(2)
    with AttentionCapture(unet, [[3]]):
        first = unet(x, t, encoder_hidden_states=context).sample
        second = unet(x, t, encoder_hidden_states=context.flip(1)).sample
        assert torch.equal(unet(x, t, encoder_hidden_states=context).sample, first)
        context.copy_(context.flip(1))
        assert torch.equal(unet(x, t, encoder_hidden_states=context).sample, second) and not torch.equal(first, second)
    with torch.inference_mode(), AttentionCapture(unet, [[3]]) as capture:
        assert torch.equal(
            unet(x.clone(), t, encoder_hidden_states=context.clone()).sample, second
        ) and capture.count == len(capture.layers)


@pytest.mark.slow  # to trace a UNet takes ten seconds
@torch.no_grad()
def test_a_compiled_pass_is_one_graph_and_hears_the_same(unet, monkeypatch):
    "PyTorch traces it here; the kernels that a compiler would make of the graph are its own affair."
    graphs = []

    def keep(graph, examples):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    traced = torch.compile(synthesis._pass, backend=keep, dynamic=False, fullgraph=True)
    monkeypatch.setattr(synthesis, "_compiler", lambda: traced)
    for tokens in ([[3]], [[5, 6]]):
        x, _, context = inputs(2)
        steps = torch.tensor([300, 200])  # as schedulers give them: numbers would each be a program
        with AttentionCapture(unet, tokens) as plain:
            expected = [unet(x, t, encoder_hidden_states=context).sample for t in steps]
        with AttentionCapture(unet, tokens, compiled=True) as capture:
            found = [capture.compiled_pass(x, t, context) for t in steps]
        assert all(map(torch.equal, found, expected)) and torch.equal(capture.maps(), plain.maps())
    assert len(graphs) == 1  # other words and other steps are no other program


def test_only_whole_batches_are_compiled_and_the_key_says_so(settings, monkeypatch):
    seen, plain = [], AttentionCapture.__init__

    def note(self, *args, compiled=False, **more):
        seen.append((len(args[1]), compiled))
        plain(self, *args, **more)

    monkeypatch.setattr(AttentionCapture, "__init__", note)
    monkeypatch.setattr(synthesis, "_compiler", lambda: synthesis._pass)  # which batches go there is the question
    items = [("a photo of a boat", "boat", k) for k in range(5)]
    own = settings.replace(compile=True, synthesis_batch=3, redraws=0)
    list(synthesis.synthesise(load_diffusion(own), items, own))
    assert seen == [(3, True), (2, False)]
    keys = [Tools(settings.replace(compile=value)).painting_key for value in (False, True)]
    assert "compile" not in keys[0] and keys[1] == keys[0] | {"compile": True}


@torch.no_grad()
def test_encoded_prompts_are_remembered_while_the_encoder_stays(settings):
    pipeline = load_diffusion(settings)
    first = cached_prompt(pipeline, "a photo of a boat")
    assert cached_prompt(pipeline, "a photo of a boat") is first and torch.equal(
        first, synthesis.encode_prompt(pipeline, "a photo of a boat")
    )
    next(pipeline.text_encoder.parameters()).mul_(2)
    assert not torch.equal(cached_prompt(pipeline, "a photo of a boat"), first)
    for i in range(300):
        cached_prompt(pipeline, f"{i % 129}")
    assert len(synthesis._ENCODED[pipeline.text_encoder]) <= 128


@torch.no_grad()
def test_steps_and_resolutions_are_averaged(unet):
    x, t, context = inputs(2)
    with AttentionCapture(unet, [[3]]) as both:
        for s in (1, 2):
            unet(x * s, t, encoder_hidden_states=context)
    single = []
    for s in (1, 2):
        with AttentionCapture(unet, [[3]]) as one:
            unet(x * s, t, encoder_hidden_states=context)
        single.append(one)
    assert both.count == 2 * len(both.layers) == 14
    for grid in both.sums:
        assert torch.allclose(both.sums[grid], single[0].sums[grid] + single[1].sums[grid], atol=1e-5)
    with AttentionCapture(unet, [[3]], resolutions=(8,)) as coarse:
        unet(x, t, encoder_hidden_states=context)
    assert list(coarse.sums) == [(8, 8)] and torch.allclose(coarse.sums[8, 8], single[0].sums[8, 8])
    with AttentionCapture(unet, [[3]], resolutions=(5,)) as none:
        unet(x, t, encoder_hidden_states=context)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        none.maps()


@torch.no_grad()
def test_refusals(unet):
    x, t, context = inputs(2)
    with AttentionCapture(unet, [[3]] * 3), pytest.raises(ValueError, match="3 images"):
        unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[77]]), pytest.raises(ValueError, match="77"):
        unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[]]), pytest.raises(ValueError, match="tokens"):
        unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[3]]) as capture, pytest.raises(RuntimeError, match="recorded once"):
        layer = next(iter(capture.processors))
        layer.processor = capture.processors[layer]
        unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[3]], fused=False) as capture, pytest.raises(RuntimeError, match="6 were recorded"):
        capture.handles.pop().remove()
        unet(x, t, encoder_hidden_states=context)
    with AttentionCapture(unet, [[3]]), pytest.raises(ValueError, match="without a mask"):
        unet(x, t, encoder_hidden_states=context, encoder_attention_mask=torch.ones(2, 77))
    with pytest.raises(ValueError, match="none"):
        AttentionCapture(torch.nn.Linear(1, 1), [[3]])


def test_capture_of_the_paper_unet_hears_sixteen_layers():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    assert len(AttentionCapture(unet, [[1]]).layers) == 16


def test_class_tokens(pipeline):
    tokenizer = pipeline.tokenizer
    for prompt, name in [
        ("a photo of a dog", "dog"),
        ("a photo of a hot dog", "hot dog"),
        ("a dog, a photo of a dog", "dog"),
        ("a photo of a", "a"),
        ("ein Foto: Überbär!", "Überbär"),
    ]:
        at = class_tokens(tokenizer, prompt, name)
        ids = tokenizer(prompt).input_ids
        assert [ids[i] for i in at] == tokenizer(name, add_special_tokens=False).input_ids
        assert at[-1] - at[0] == len(at) - 1
    assert class_tokens(tokenizer, "a dog, a photo of a dog", "dog")[0] > 5
    with pytest.raises(ValueError, match="cut off"):
        class_tokens(tokenizer, "a photo of a " + "x" * 100, "x" * 100)
    with pytest.raises(ValueError, match="cat"):
        class_tokens(tokenizer, "a photo of a dog", "cat")
    with pytest.raises(ValueError, match="at least one token"):
        class_tokens(tokenizer, "a photo of  ", " ")


TEMPLATES = [
    "a {} under a tree",
    "a tree under a {}",
    "{}",
    "tree, {}, tree",
    "a {}, from a treetop",
    "a treehouse and a {}",
]


@pytest.mark.promise(33)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_word_that_was_put_in_is_found_wherever_it_stands_again(pipeline, template):
    count = lambda text: len(pipeline.tokenizer(text, add_special_tokens=False).input_ids)
    _, prompt, word = Vocabulary.of("tree").prompts(template)[0]
    first = 1 + count(template[: template.index("{}")])
    assert class_tokens(pipeline.tokenizer, prompt, word) == list(range(first, first + count(word)))


def test_in_other_text_the_word_is_no_part_of_another(pipeline):
    text = "a photo of a cat, from a catalogue"
    assert class_tokens(pipeline.tokenizer, text, "cat") == class_tokens(pipeline.tokenizer, text[:16], "cat")


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
        assert (
            a.seed == b.seed
            and np.abs(a.image.astype(int) - b.image).max() <= 1
            and np.abs(a.attention - b.attention).max() < 1e-4
        )
        assert (
            a.image.dtype == np.uint8
            and a.attention.dtype == np.float32
            and a.attention.max() == 1
            and a.attention.min() >= 0
        )
    assert not np.array_equal(batched["boat", 0].image, batched["boat", 1].image)


def test_the_loop_equals_the_library_pipeline(pipeline, settings):
    (reference,) = synthesise(pipeline, ITEMS[:1], settings)
    generator = torch.Generator().manual_seed(reference.seed)
    theirs = pipeline(
        ITEMS[0][0],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=settings.guidance,
        generator=generator,
        output_type="np",
    ).images[0]
    assert np.abs(theirs * 255 - reference.image).max() <= 1


@pytest.mark.parametrize(
    "scheduler, extra", [("PNDMScheduler", {"skip_prk_steps": True}), ("EulerAncestralDiscreteScheduler", {})]
)
def test_other_schedulers(settings, scheduler, extra):
    import diffusers

    pipeline = load_diffusion(settings)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **extra)
    a, b = list(synthesise(pipeline, ITEMS[:2], settings)), list(synthesise(pipeline, ITEMS[1:2], settings))
    assert np.abs(a[1].image.astype(int) - b[0].image).max() <= 1


def test_without_guidance_and_with_bad_size(pipeline, settings):
    (reference,) = synthesise(pipeline, ITEMS[:1], settings.replace(guidance=1))
    assert reference.attention.shape == (16, 16)
    with pytest.raises(ValueError, match="66"):
        list(synthesise(pipeline, ITEMS[:1], settings.replace(image_size=66)))


@pytest.mark.promise(13)
def test_degenerate_pictures_are_drawn_again_and_counted(pipeline, settings, monkeypatch):
    real, bad = synthesis._decode, {image_seed(0, "boat", 1), image_seed(0, "tree", 0), image_seed(0, "tree", 0, 1)}
    real_noise, current = synthesis._first_noise, []

    def noise(pipeline, generators, side):
        current[:] = [g.initial_seed() for g in generators]
        return real_noise(pipeline, generators, side)

    def decode(*args):
        pictures = real(*args).copy()
        for i, seed in enumerate(current):
            if seed in bad:
                pictures[i] = 0
        return pictures

    monkeypatch.setattr(synthesis, "_first_noise", noise)
    monkeypatch.setattr(synthesis, "_decode", decode)
    made = list(synthesise(pipeline, ITEMS, settings))
    assert [(r.name, r.index) for r in made] == [(n, k) for _, n, k in ITEMS]
    assert [r.redraws for r in made] == [0, 1, 0, 0, 2, 0] and not any(r.degenerate for r in made)
    assert made[4].seed == image_seed(0, "tree", 0, 2)
    given_up = list(synthesise(pipeline, ITEMS, settings.replace(redraws=1)))
    assert [r.degenerate for r in given_up] == [False] * 4 + [True, False] and given_up[4].redraws == 1


@pytest.mark.promise(13)
def test_nan_is_degenerate(settings):
    picture, attention = np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.eye(4, dtype=np.float32)
    assert not synthesis._is_degenerate(picture, attention, settings)
    assert synthesis._is_degenerate(picture, attention * np.nan, settings) and synthesis._is_degenerate(
        picture, attention * 0, settings
    )
