"""Attention capture in a pass through a UNet of Stable Diffusion 1.4's architecture, random weights: against none, and
against the explicit softmax of DAAM and prompt-to-prompt."""

import torch
from diffusers import UNet2DConditionModel
from rim.method.synthesis import AttentionCapture
from bench.harness import Row, alternate

TOKENS = [5, 6]


class Explicit:
    """An attention processor in the manner of DAAM and prompt-to-prompt: instead of the fused kernel softmax(QK^T) as
    a matrix, which is kept."""

    def __init__(self, keep):
        self.keep = keep

    def __call__(self, layer, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query, key, value = (
            layer.head_to_batch_dim(x)
            for x in (layer.to_q(hidden_states), layer.to_k(encoder_hidden_states), layer.to_v(encoder_hidden_states))
        )
        scores = layer.get_attention_scores(query, key)
        self.keep(scores.unflatten(0, (-1, layer.heads)).mean(1))  # [B, N, L]
        return layer.to_out[1](layer.to_out[0](layer.batch_to_head_dim(scores @ value)))


class ExplicitCapture:
    """The maps of the tokens' attention from `Explicit` processors: conditional half, each divided by its maximum,
    resized, averaged."""

    def __init__(self, unet, tokens, size):
        self.unet, self.tokens, self.size, self.sum, self.count = unet, tokens, size, 0, 0

    def keep(self, scores):
        maps = torch.stack([m[:, t].mean(1) for m, t in zip(scores[-len(self.tokens) :].float(), self.tokens)])
        side = round(maps.shape[1] ** 0.5)
        maps = (maps / maps.amax(1, keepdim=True)).unflatten(1, (side, side))
        self.sum, self.count = (
            self.sum + torch.nn.functional.interpolate(maps[:, None], self.size, mode="bilinear")[:, 0],
            self.count + 1,
        )

    def maps(self):
        return self.sum / self.sum.amax((1, 2), keepdim=True)

    def __enter__(self):
        self.before = self.unet.attn_processors
        self.unet.set_attn_processor(
            {name: Explicit(self.keep) if "attn2" in name else p for name, p in self.before.items()}
        )
        return self

    def __exit__(self, *_):
        self.unet.set_attn_processor(self.before)


@torch.no_grad()
def run(device="cpu", side=32, images=1, unet=None, rounds=7):
    "One pass with guidance, latents of `side`; on a GPU eight images at once in bfloat16, of 64."
    dtype = torch.float32
    if device == "cuda":
        side, images, dtype, rounds = 64, 8, torch.bfloat16, 15
    torch.manual_seed(0)
    unet = (
        (unet or UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
        .eval()
        .requires_grad_(False)
        .to(device, dtype)
    )
    x, context = (
        torch.randn(2 * images, *shape).to(device, dtype)
        for shape in ((4, side, side), (77, unet.config.cross_attention_dim))
    )
    kept = {}

    def plain():
        kept["plain"] = unet(x, 300, encoder_hidden_states=context).sample

    def fused():
        with AttentionCapture(unet, [TOKENS] * images) as capture:
            kept["fused"] = unet(x, 300, encoder_hidden_states=context).sample, capture.maps()

    def explicit():
        with ExplicitCapture(unet, [TOKENS] * images, (side, side)) as capture:
            kept["explicit"] = unet(x, 300, encoder_hidden_states=context).sample, capture.maps()

    ours, without, theirs = alternate([fused, plain, explicit], rounds=rounds, least=rounds, device=device, turn=0)
    out, (with_maps, maps), (_, their_maps) = kept["plain"], kept["fused"], kept["explicit"]
    same = (
        "output equal to the last bit"
        if torch.equal(out, with_maps)
        else f"output {(out - with_maps).abs().max().item():.0e} apart at most"
    )
    size = f"UNet, {side}x{side} latents, batch {2 * images}, {str(dtype).removeprefix('torch.')}"
    bound = 3 if device == "cuda" else 5
    yield Row(
        "attention capture",
        size,
        ours,
        "no capture",
        without,
        f"{same}, {100 * (ours / without - 1):+.1f} % time",
        f"at most +{bound} %",
    )
    yield Row(
        "attention capture",
        size,
        ours,
        "explicit softmax (DAAM, prompt-to-prompt)",
        theirs,
        f"maps {(maps - their_maps).abs().max().item():.0e} apart at most",
    )
    if device != "cuda":
        yield Row(
            "attention capture",
            "UNet, 64x64 latents, batch 16, bfloat16, on a GPU",
            None,
            "no capture",
            target="at most +3 %",
        )
