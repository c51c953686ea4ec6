"TinyViT: its bands, its windows and its place in SAM, on random weights."

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as hyp, strategies as st
from rim.models.architectures import MOBILE_SAM, build_sam
from rim.models.tinyvit import _Block, _Bottleneck, TinyViT, _WindowAttention
from rim.trident.aggregation import sam_tokens
from rim.method.proposals import MaskGenerator, _stock_proposals
from segment_anything import SamAutomaticMaskGenerator

TINY = MOBILE_SAM | dict(
    image_size=64, encoder_widths=[8, 16, 20, 40], encoder_depths=[1, 1, 2, 1], prompt_dim=32, decoder_mlp_dim=64
)


@pytest.fixture
def sam():
    torch.manual_seed(0)
    return build_sam(TINY | dict(iou_head_dim=32)).requires_grad_(False)


@hyp(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 49))
def test_bands_are_the_whole(rows, columns, top):
    block, x = _Bottleneck(4).eval(), torch.randn(2, rows, columns, 4)
    with torch.no_grad():
        plain = x.permute(0, 3, 1, 2)
        wide = block.conv2(F.gelu(block.conv1(plain)))
        whole = F.gelu(plain + block.conv3(F.gelu(wide))).permute(0, 2, 3, 1)
        top = min(top, rows - 1)
        assert torch.allclose(block(x), whole, atol=1e-5)
        assert torch.allclose(block.band(x, top, rows), whole[:, top:], atol=1e-5)


def test_the_bias_depends_on_the_distance_alone():
    attention = _WindowAttention(4, heads=2, window=3)
    for a in range(9):
        for b in range(9):
            rows, columns = abs(a // 3 - b // 3), abs(a % 3 - b % 3)
            assert attention.offsets[a, b] == 3 * rows + columns


def test_attention_is_the_plain_formula():
    attention, x = _WindowAttention(8, heads=2, window=3), torch.randn(5, 9, 8)
    torch.nn.init.normal_(attention.attention_biases)
    with torch.no_grad():
        parts = attention.qkv(attention.norm(x)).view(5, 9, 2, 12)
        heads = []
        for h in range(2):
            q, k, v = parts[:, :, h, :4], parts[:, :, h, 4:8], parts[:, :, h, 8:]
            bias = attention.attention_biases[h][attention.offsets]
            heads.append((q @ k.transpose(1, 2) / 2 + bias).softmax(2) @ v)
        assert torch.allclose(attention(x), attention.proj(torch.cat(heads, 2)), atol=1e-5)


def test_a_window_sees_no_other():
    block, x = _Block(4, heads=2, window=4), torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, :4, :4] += 1
    with torch.no_grad():
        same = block.attend(changed) == block.attend(x)
    assert same[:, 4:].all() and same[:, :, 4:].all() and not same[:, :4, :4].all()


@pytest.mark.parametrize("side", [32, 48, 64])
def test_the_embedding_is_a_sixteenth_of_any_side(side):
    encoder = TinyViT(side, (8, 16, 20, 40), (1, 1, 2, 1), out_chans=12).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, side, side)).shape == (2, 12, side // 16, side // 16)


def test_masks_are_the_stock_generator_s(sam, rng):
    image = rng.integers(0, 255, (40, 60, 3), dtype="uint8")
    how = dict(pred_iou_thresh=-1, stability_score_thresh=-1, stability_score_offset=1.0, box_nms_thresh=0.9)
    ours = MaskGenerator(sam, 4, 8, **how).generate(image)
    stock = _stock_proposals(SamAutomaticMaskGenerator(sam, 4, 8, **how), image)
    assert len(ours) == len(stock) > 0 and (ours.masks == stock.masks).all() and (ours.boxes == stock.boxes).all()


def test_another_encoder_is_refused():
    with pytest.raises(ValueError, match="one of vit, tinyvit; got 'resnet'"):
        build_sam(dict(encoder="resnet"))


def test_trident_s_correlation_needs_sam_s_own_encoder(sam, rng):
    with pytest.raises(ValueError, match="SAM's own ViT, and the encoder is a TinyViT"):
        sam_tokens(sam, rng.integers(0, 255, (64, 64, 3), dtype="uint8"))
