"GroupViT begins as CLIP: each part against what it has to compute."

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from transformers import GroupViTConfig, GroupViTModel
from transformers.models.clip.modeling_clip import CLIPMLP
from rim.toybox import groupvit_start as start
from rim.toybox.clip import _patch_embeddings
from rim.toybox.groupvit import _VISION, _GroupViTTask, _draw, _fused_attention, _pixels

K, D = 6, 32


def small_model():
    torch.manual_seed(0)
    text = dict(vocab_size=30, hidden_size=D, intermediate_size=D, num_hidden_layers=1, num_attention_heads=2)
    vision = _VISION | dict(hidden_size=D, intermediate_size=12, depths=[1, 0, 0])
    vision |= dict(num_group_tokens=[K, 0, 0], num_output_groups=[K, 0, 0], num_attention_heads=2)
    sizes = dict(projection_dim=D, projection_intermediate_dim=2 * D)
    return GroupViTModel(GroupViTConfig(text_config=text, vision_config=vision, **sizes)).eval()


@pytest.fixture(scope="module")
def model():
    return small_model()


def stage(model):
    return model.vision_model.encoder.stages[0].downsample


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_tokens_pass_the_mixing_unchanged(model, seed):
    down, tokens = stage(model), torch.randn(2, K, D, generator=torch.Generator().manual_seed(seed))
    start._pass_through(down)
    assert torch.allclose(down.mlp_inter(tokens), tokens, atol=1e-5)
    patches = torch.randn(2, 9, D, generator=torch.Generator().manual_seed(seed + 1))
    norm = F.layer_norm(tokens, (D,), eps=1e-6)
    assert torch.allclose(down.pre_assign_attn(tokens, patches), 0.1 * norm, atol=1e-4)


def test_a_projection_of_pairs_is_its_matrix(model):
    torch.manual_seed(1)
    weight, inputs = torch.randn(D, D), 3 * torch.randn(200, D) + 1
    start._as_pairs(model.visual_projection, weight, inputs)
    other = torch.randn(50, D)
    assert torch.allclose(model.visual_projection(other), other @ weight.T, atol=1e-3)
    model.visual_projection.train()  # with the statistics of what it was fitted to, training begins from the same
    assert torch.allclose(model.visual_projection(inputs), inputs @ weight.T, rtol=0.01, atol=0.1)
    model.visual_projection.eval()


def test_with_all_units_the_part_is_the_whole_and_fewer_are_fitted():
    class Sizes:
        hidden_size, intermediate_size, hidden_act = D, 24, "gelu"

    class Fewer(Sizes):
        intermediate_size = 16

    torch.manual_seed(2)
    old, whole, part = CLIPMLP(Sizes), CLIPMLP(Sizes), CLIPMLP(Fewer)
    inputs, wanted = torch.randn(400, D), None
    wanted = old(inputs)
    for new in (whole, part):
        start._fit_units(new, old, inputs)
    far = lambda new: float((new(inputs) - wanted).square().mean() / wanted.var())
    assert far(whole) < 1e-4 and far(part) < 0.5
    units = part.fc1.weight @ old.fc1.weight.T  # each kept unit is one of the old
    assert torch.allclose(units.amax(1), part.fc1.weight.square().sum(1), atol=1e-5)


def test_an_assignment_scores_as_the_clusters_do(model):
    torch.manual_seed(3)
    assign, tokens = stage(model).assign, torch.randn(K, D)
    centres = 4 * torch.randn(K, D)
    owner = torch.randint(0, K, (600,))
    keys = centres[owner] + 0.3 * torch.randn(600, D)
    weight, bias = start._clusters(keys, F.normalize(keys, dim=1), K)
    best = (keys @ weight.T + bias).argmax(1)
    assert len({(int(a), int(b)) for a, b in zip(best, owner)}) == K  # one cluster each
    start._fit_assignment(assign, tokens.expand(4, K, D), weight, bias)
    scores = assign.scale * assign.k_proj(keys) @ assign.q_proj(tokens).T
    assert (scores.argmax(1) == best).all()


def test_fused_attention_is_the_librarys(model):
    attention, tokens = model.vision_model.encoder.stages[0].layers[0].self_attn, torch.randn(2, 7, D)
    assert torch.allclose(attention(tokens)[0], _fused_attention(attention, tokens)[0], atol=1e-6)
    other = torch.randn(2, 5, D)
    plain = attention(tokens, encoder_hidden_states=other)[0]
    assert torch.allclose(plain, _fused_attention(attention, tokens, encoder_hidden_states=other)[0], atol=1e-6)


@pytest.mark.slow  # k-means over many scenes; each part is tested above
@pytest.mark.weights
def test_at_its_start_patches_are_named_as_clip_names_them(root):
    from transformers import CLIPModel

    task = _GroupViTTask(scenes=1, sheets=1)
    task.device, weights = "cpu", root / "rim/toybox/weights"
    task.modules.eval()
    clip = CLIPModel.from_pretrained(weights / "clip", dtype=torch.float32).eval()
    pixels = _pixels(_draw(range(9000, 9020), scenes=20)[0], "cpu")
    with torch.no_grad():
        _, groups, shares = task.see(pixels)
        words = task.texts([f"a photo of a {w}" for w in task.words])
        ours = (groups @ words.T).argmax(-1).gather(1, shares.argmax(1))
        tokens = task.tokens([f"a photo of a {w}" for w in task.words], "cpu")
        texts = F.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=1)
        assert torch.allclose(words @ words.T, texts @ texts.T, atol=1e-3)
        theirs = (_patch_embeddings(clip, pixels) @ texts.T).argmax(-1)
    assert (ours == theirs).float().mean() > 0.7
