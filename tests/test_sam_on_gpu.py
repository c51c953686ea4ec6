"""SAM's encoder with fused attention against the library's: same numbers, same parameters, the original untouched; the
decoder's kernel against the operations that it is made of."""

import warnings

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from rim.models.fast_sam import in_dtype
from rim.models.sam_on_gpu import fused_encoder, one_kernel, settle


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


def test_places_after_a_layer_are_those_of_three_operations():
    draw = torch.Generator().manual_seed(0)
    received, places, where = (torch.randn(*shape, generator=draw) for shape in ((3, 9, 8), (3, 9, 8), (9, 8)))
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    for shared in (places, places[0]):  # places of all points, and those of the image in the first layer
        new, placed = settle(received, shared, where, norm.weight, norm.bias, norm.eps)
        assert torch.equal(new, norm(received + shared)) and torch.equal(placed, new + where)


@pytest.mark.slow  # a quarter of a minute to compile; tests/test_gpu.py has the decoder with the kernel that is used
def test_a_compiled_kernel_gives_what_the_plain_one_does():
    "Compiled for the CPU here: the same code, another back end."
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=draw) for shape in ((3, 9, 8), (9, 8), (9, 8), (8,), (8,))]
    for ours, plain in zip(torch.compile(settle)(*values, 1e-6), settle(*values, 1e-6)):
        torch.testing.assert_close(ours, plain, rtol=0, atol=2e-6)


def test_without_a_compiler_the_plain_function_works_and_says_so(monkeypatch):
    def broken(function):
        def call(*args):
            raise RuntimeError("Failed to find C compiler.\nMore of it.")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    run = one_kernel(torch.add, torch.device("cuda"))
    with pytest.warns(UserWarning, match="Failed to find C compiler"):
        assert run(torch.ones(2), torch.ones(2)).sum() == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert run(torch.ones(2), torch.ones(2)).sum() == 4
    with pytest.raises(RuntimeError, match="size"):  # its own faults stay
        run(torch.ones(2), torch.ones(3))


def test_no_memory_is_no_missing_compiler(monkeypatch):
    def full(function):
        def call(*args):
            raise torch.OutOfMemoryError("full")

        return call

    monkeypatch.setattr(torch, "compile", full)
    run = one_kernel(torch.add, torch.device("cuda"))
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            run(torch.ones(2), torch.ones(2))


def test_on_a_cpu_nothing_is_compiled():
    assert one_kernel(torch.add, torch.device("cpu")) is torch.add
