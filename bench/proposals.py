"""Masks of a picture whose SAM features are there: the batched generator against the stock one and transformers' pipeline; ViT-B's decoder, random weights made to give masks that pass."""
import re, subprocess, sys
from functools import cache
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from rim.models import build_sam
from rim.proposals import MaskGenerator, PointDecoder, stock_proposals
from bench.harness import Row, alternate

POINTS, PASS, SIZE, CHUNKS = 8, 0.2, (480, 640), (16, 64)  # points per side; share of masks that pass the predicted IoU
FILTERS = dict(pred_iou_thresh=0.88, stability_score_thresh=0.95, stability_score_offset=1.0, box_nms_thresh=1.0)  # random weights answer all points alike: nothing is suppressed, so that the survivors are as many as usual
RENAMES = [("output_upscaling.0", "upscale_conv1"), ("output_upscaling.1", "upscale_layer_norm"), ("output_upscaling.3", "upscale_conv2"),
           ("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("norm3", "layer_norm3"), ("norm4", "layer_norm4"), ("norm_final_attn", "layer_norm_final_attn"), ("point_embeddings", "point_embed"),
           ("layers.0.", "proj_in.", "mlps", "iou_prediction"), ("layers.1.", "layers.0.", "mlps", "iou_prediction"), ("layers.2.", "proj_out.", "mlps", "iou_prediction")]

class Seen(torch.nn.Module):
    "In the encoder's place: features that a picture might have."
    img_size = 1024
    def __init__(self):
        super().__init__()
        coarse = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("features", F.interpolate(coarse, (64, 64), mode="bicubic"))  # neighbours look alike
    def forward(self, pixels): return self.features.to(pixels)

@cache
@torch.no_grad()
def model():
    "SAM ViT-B behind its encoder: louder hypernetworks, so that masks are stable, and predicted IoUs moved so that the wanted share passes."
    torch.manual_seed(0)
    sam = build_sam(dict(encoder_dim=16, encoder_depth=1, encoder_heads=1, encoder_global_attn=[]))
    sam.image_encoder, net = Seen(), sam.mask_decoder
    for mlp in net.output_hypernetworks_mlps: mlp.layers[-1].weight.mul_(2000)
    decoder, points = PointDecoder(sam), 1024 * torch.rand(64, 2, generator=torch.Generator().manual_seed(1))
    decoder.look(sam.image_encoder.features)
    ious, last = torch.cat([decoder.ious(decoder.tokens(xy)[0]) for xy in points.split(4)]), net.iou_prediction_head.layers[-1]
    scale = 0.1 / ious.std(0).mean()
    last.weight.mul_(scale); last.bias.mul_(scale).add_(0.88 - (ious * scale).quantile(1 - PASS))
    return sam

def picture(): return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)

def ours(chunk=64):
    "The batched generator, as the settings make it; on a CPU it takes no more points at once than fit its `CHUNK`."
    return MaskGenerator(model(), POINTS, chunk, **FILTERS).generate

def stock(): return lambda image: stock_proposals(SamAutomaticMaskGenerator(model(), POINTS, **FILTERS), image)

def chunked(chunk):
    "The batched generator, made to take so many points at once."
    import rim.proposals
    def generate(image):
        usual, rim.proposals.CHUNK = rim.proposals.CHUNK, 2 ** 40
        try: return ours(chunk)(image)
        finally: rim.proposals.CHUNK = usual
    return generate

def renamed(name):
    "A weight of segment_anything as transformers call it."
    for old, new, *only in RENAMES:
        if old in name and (not only or any(word in name for word in only)): return name.replace(old, new)
    return name

def theirs():
    "transformers' mask generation with the same decoder; its encoder is left out too."
    from transformers import SamConfig, SamImageProcessor, SamModel, SamVisionConfig, pipeline
    net = SamModel(SamConfig(vision_config=SamVisionConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=1, mlp_dim=16).to_dict())).eval()
    weights = net.state_dict()
    for name, weight in model().state_dict().items():
        if "gaussian" in name: weights.update({key: weight for key in weights if key.endswith("positional_embedding")})
        elif not name.startswith("image_encoder") and "mask_downscaling" not in name: weights[renamed(name)] = weight
    net.load_state_dict(weights)
    net.get_image_embeddings = lambda pixels, **_: model().image_encoder.features
    generate = pipeline("mask-generation", model=net, image_processor=SamImageProcessor())
    own = dict(pred_iou_thresh=FILTERS["pred_iou_thresh"], stability_score_thresh=FILTERS["stability_score_thresh"], stability_score_offset=1, crops_nms_thresh=FILTERS["box_nms_thresh"])
    return lambda image: np.array(generate(Image.fromarray(image), points_per_crop=POINTS, points_per_batch=64, **own)["masks"])

def high_water():
    "The most memory that this process has held, GB; Linux tells."
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

def gigabytes(which):
    "Peak memory of one generator in a process of its own, over what it takes before the picture comes; not a number where the system doesn't tell."
    code = f"import torch; from bench.proposals import *; torch.set_num_threads(1); f = {which}(); before = high_water(); f(picture()); print(high_water() - before)"
    if not Path("/proc/self/status").exists(): return float("nan")
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

def agreement(found, other):
    "Counts, and the share of pixels that differ where masks can be paired, largest first."
    other = np.array(sorted(other, key=lambda mask: -mask.sum()))
    if len(found) != len(other): return f"{len(found)} masks against {len(other)}"
    return f"{len(found)} masks each, {(found.masks != other).sum()} of {found.masks.size} pixels differ"

def run():
    image, generators = picture(), [ours(), stock(), theirs(), *map(chunked, CHUNKS)]
    times = alternate([lambda f=f: f(image) for f in generators], rounds=3)
    found, size = generators[0](image), f"ViT-B's decoder, {POINTS}x{POINTS} points, {SIZE[0]}x{SIZE[1]}, float32"
    small, large = (gigabytes(which) for which in ("ours", "stock"))
    yield Row("mask generation", size, times[0], f"segment_anything, {large:.2f} GB against our {small:.2f}", times[1], agreement(found, generators[1](image).masks))
    yield Row("mask generation", size, times[0], "transformers' pipeline", times[2], agreement(found, generators[2](image)))
    for chunk, generate, spent in zip(CHUNKS, generators[3:], times[3:]):
        yield Row("mask generation", size, times[0], f"ours, {chunk} points at a time instead of 4", spent, agreement(found, generate(image).masks))
