"""SAM's encoder with fused attention against the library's: same numbers, same parameters, the original untouched."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from rim.models.fast_sam import fused_encoder, in_dtype


def encoder(window, depth=2, rel_pos=True, side=96, patch=16):
    torch.manual_seed(0)
    made = ImageEncoderViT(
        side,
        patch,
        embed_dim=32,
        depth=depth,
        num_heads=4,
        out_chans=8,
        use_rel_pos=rel_pos,
        window_size=window,
        global_attn_indexes=(1,),
        qkv_bias=True,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(std=0.5)  # zeros, as the library begins with, would hide a mistake
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("window", [0, 3, 4])  # 4 does not divide the six places of a side: the library pads
def test_features_are_the_librarys(window):
    theirs, pixels = encoder(window), torch.randn(2, 3, 96, 96)
    ours = fused_encoder(theirs)
    assert ours is not theirs
    torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=2e-6)


def test_positions_matter_here():
    theirs, pixels = encoder(0), torch.randn(1, 3, 96, 96)
    ours = fused_encoder(theirs)
    for block in ours.blocks:
        block.attn.rows.zero_()
    assert (ours(pixels) - theirs(pixels)).abs().max() > 1e-3


def test_parameters_are_shared_and_the_original_stays():
    theirs = encoder(3)
    before = [type(block.attn) for block in theirs.blocks]
    ours = fused_encoder(theirs)
    assert [type(block.attn) for block in theirs.blocks] == before
    assert ours.blocks[0].attn.qkv.weight is theirs.blocks[0].attn.qkv.weight
    half = in_dtype(ours, torch.bfloat16)
    assert half.blocks[0].attn.rows.dtype == torch.bfloat16 and theirs.blocks[0].attn.qkv.weight.dtype == torch.float32


def test_an_encoder_without_relative_positions_is_left_alone():
    theirs = encoder(0, rel_pos=False)
    assert fused_encoder(theirs) is theirs
