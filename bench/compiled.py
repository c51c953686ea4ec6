"""`torch.compile`d forms of the three hot loops beside the plain ones: a pass through the UNet, SAM's decoder on some
points, an image through DINOv2; the papers' architectures, random weights. Run when it is named: compiling takes
minutes. What came of it stands on docs/benchmarks.md."""

import copy, time
import torch
from diffusers import UNet2DConditionModel
from rim.models.architectures import build_sam
from rim.models.fast_sam import PointDecoder
from transformers import Dinov2Config, Dinov2Model
from bench.harness import Row, alternate


def unet(device, dtype):
    "A step of guided denoising: two halves of a batch."
    side, images = (64, 8) if device == "cuda" else (32, 1)
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).to(device, dtype).eval()
    x = torch.randn(2 * images, 4, side, side, device=device, dtype=dtype)
    text = torch.randn(2 * images, 77, 768, device=device, dtype=dtype)
    call = lambda forward: forward(x, 300, encoder_hidden_states=text).sample
    return f"UNet, {side}x{side} latents, batch {2 * images}", model, call


def decoder(device, dtype):
    "What SAM's mask decoder does for 16 points of an image that has been encoded."
    small = dict(encoder_dim=16, encoder_depth=1, encoder_heads=1, encoder_global_attn=[])
    sam = build_sam(small).to(device).eval()
    points = PointDecoder(sam)
    points.look(torch.randn(1, 256, 64, 64, device=device))
    xy = 1024 * torch.rand(16, 2, device=device)

    def forward(xy):
        tokens, places = points.tokens(xy)
        return points.ious(tokens), points.logits(tokens, places)

    return "SAM's decoder, 16 points, float32", forward, lambda forward: torch.cat([x.flatten() for x in forward(xy)])


def dino(device, dtype):
    "An image through DINOv2 ViT-B/14, 37x37 patches."
    model = Dinov2Model(Dinov2Config(image_size=518)).to(device, dtype).eval()
    pixels = torch.randn(1, 3, 518, 518, device=device, dtype=dtype)
    return "DINOv2 ViT-B/14, 518 pixels", model, lambda forward: forward(pixels).last_hidden_state


def compiled_form(plain, device):
    """A compiled form and its name: on a CPU, of a model that names its repeated blocks, these alone. Compiling the
    whole UNet takes two cores more than nine minutes."""
    if device == "cpu" and getattr(plain, "_repeated_blocks", None):
        form = copy.deepcopy(plain, {id(weight): weight for weight in plain.parameters()})  # the same weights
        form.compile_repeated_blocks()
        return form, f"torch.compile of each {plain._repeated_blocks[0]}"
    return torch.compile(plain), "torch.compile"


@torch.no_grad()
def run(device="cpu", loops=(unet, decoder, dino), rounds=5):
    "The plain call and the compiled one, by turns; the first compiled call, which compiles, apart."
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for make in loops:
        torch.manual_seed(0)
        size, plain, call = make(device, dtype)
        compiled, how = compiled_form(plain, device)
        start = time.perf_counter()
        theirs = call(compiled)
        first, ours = time.perf_counter() - start, call(plain)
        far = (theirs.float() - ours.float()).abs().max().item() / ours.float().abs().max().item()
        equal = "equal to the last bit" if torch.equal(ours, theirs) else f"{far:.0e} of the largest value apart"
        took = alternate([lambda: call(plain), lambda: call(compiled)], rounds, seconds=20, device=device, turn=0)
        size += "" if "float32" in size else f", {str(dtype).removeprefix('torch.')}"
        yield Row("compiled", size, took[0], how, took[1], f"{equal}; compiled in {first:.0f} s")
