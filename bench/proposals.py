"""Masks of an image whose SAM features are there: the batched generator against the stock one and transformers'
pipeline; ViT-B's decoder, random weights made to give masks that pass."""

from functools import cache, partial
import numpy as np, torch
import torch.nn.functional as F
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from rim.measure.agreement import _plain_pool
from rim.models.architectures import build_sam
from rim.method.proposals import STOCK, MaskGenerator, _stock_proposals
from rim.models.fast_sam import PointDecoder, in_dtype
from rim.models.sam_on_gpu import fused_encoder
from rim.method.tools import Tools
from rim.method.regions import _describe
from rim.base.settings import Settings
from bench.harness import Row, alternate, peak

POINTS, PASS, SIZE, CHUNKS = 6, 0.2, (480, 640), (16,)  # points per side; share of masks that pass the predicted IoU
FILTERS = dict(
    pred_iou_thresh=0.88, stability_score_thresh=0.95, stability_score_offset=1.0, box_nms_thresh=1.0
)  # random weights answer all points alike: nothing is suppressed, so that the survivors are as many as usual
RENAMES = [
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    ("norm3", "layer_norm3"),
    ("norm4", "layer_norm4"),
    ("norm_final_attn", "layer_norm_final_attn"),
    ("point_embeddings", "point_embed"),
    ("layers.0.", "proj_in.", "mlps", "iou_prediction"),
    ("layers.1.", "layers.0.", "mlps", "iou_prediction"),
    ("layers.2.", "proj_out.", "mlps", "iou_prediction"),
]


class Seen(torch.nn.Module):
    "In the encoder's place: features that an image might have."

    img_size = 1024

    def __init__(self):
        super().__init__()
        coarse = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("features", F.interpolate(coarse, (64, 64), mode="bicubic"))  # neighbours look alike

    def forward(self, pixels):
        return self.features.to(pixels)


@torch.no_grad()
def passing(sam, features, share):
    """Make random weights useful: louder hypernetworks, so that masks are stable, and predicted IoUs moved so that a
    share of the masks passes."""
    net = sam.mask_decoder
    for mlp in net.output_hypernetworks_mlps:
        mlp.layers[-1].weight.mul_(2000)
    decoder, points = (
        PointDecoder(sam),
        1024 * torch.rand(64, 2, generator=torch.Generator().manual_seed(1)).to(features.device),
    )
    decoder.look(features)
    ious, last = (
        torch.cat([decoder.ious(decoder.tokens(xy)[0]) for xy in points.split(4)]),
        net.iou_prediction_head.layers[-1],
    )
    scale = 0.1 / ious.std(0).mean()
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(0.88 - (ious * scale).quantile(1 - share))
    return sam


@cache
def model():
    "SAM ViT-B behind its encoder."
    torch.manual_seed(0)
    sam = build_sam(dict(encoder_dim=16, encoder_depth=1, encoder_heads=1, encoder_global_attn=[]))
    sam.image_encoder = Seen()
    return passing(sam, sam.image_encoder.features, PASS)


def picture():
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def ours(chunk=64):
    "The batched generator, as the settings make it; on a CPU it takes no more points at once than fit its `CHUNK`."
    return MaskGenerator(model(), POINTS, chunk, **FILTERS).generate


def stock():
    return lambda image: _stock_proposals(SamAutomaticMaskGenerator(model(), POINTS, **FILTERS), image)


def chunked(chunk):
    "The batched generator, made to take so many points at once."
    import rim.method.proposals

    def generate(image):
        usual, rim.method.proposals._CHUNK = rim.method.proposals._CHUNK, 2**40
        try:
            return ours(chunk)(image)
        finally:
            rim.method.proposals._CHUNK = usual

    return generate


def renamed(name):
    "A weight of segment_anything as transformers call it."
    for old, new, *only in RENAMES:
        if old in name and (not only or any(word in name for word in only)):
            return name.replace(old, new)
    return name


def theirs():
    "transformers' mask generation with the same decoder; its encoder is skipped too."
    from transformers import SamConfig, SamImageProcessor, SamModel, SamVisionConfig, pipeline

    net = SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                num_hidden_layers=1, hidden_size=16, num_attention_heads=1, mlp_dim=16
            ).to_dict()
        )
    ).eval()
    weights = net.state_dict()
    for name, weight in model().state_dict().items():
        if "gaussian" in name:
            weights.update({key: weight for key in weights if key.endswith("positional_embedding")})
        elif not name.startswith("image_encoder") and "mask_downscaling" not in name:
            weights[renamed(name)] = weight
    net.load_state_dict(weights)
    net.get_image_embeddings = lambda pixels, **_: model().image_encoder.features
    generate = pipeline("mask-generation", model=net, image_processor=SamImageProcessor())
    own = dict(
        pred_iou_thresh=FILTERS["pred_iou_thresh"],
        stability_score_thresh=FILTERS["stability_score_thresh"],
        stability_score_offset=1,
        crops_nms_thresh=FILTERS["box_nms_thresh"],
    )
    return lambda image: np.array(
        generate(Image.fromarray(image), points_per_crop=POINTS, points_per_batch=64, **own)["masks"]
    )


def agreement(found, other):
    "Counts, and the share of pixels that differ where masks can be paired, largest first."
    other = np.array(sorted(other, key=lambda mask: -mask.sum()))
    if len(found) != len(other):
        return f"{len(found)} masks against {len(other)}"
    return (
        f"{len(found)} of {3 * POINTS**2} masks survive in each, {(found.masks != other).sum()} of "
        f"{found.masks.size} pixels differ"
    )


def stage2(image, device, share=0.03):
    """Milliseconds from an image to its regions with their features, both encoders included: ours in bfloat16, the
    library's generator and full-size pooling in float32; and what they found."""
    settings, found = Settings.from_profile("paper", pretrained=False, device=device, dtype="bfloat16"), {}
    torch.manual_seed(0)
    sam, encoder, grid = (
        build_sam().to(device),
        Tools(settings).region_encoder,
        (settings.points_per_side, settings.points_per_batch),
    )
    ours, other = (
        MaskGenerator(sam, *grid, **FILTERS, dtype=torch.bfloat16),
        SamAutomaticMaskGenerator(sam, grid[0], STOCK, **FILTERS),
    )
    with torch.no_grad():
        passing(
            sam,
            sam.image_encoder(
                sam.preprocess(torch.as_tensor(ours.resize.apply_image(image), device=device).permute(2, 0, 1)[None])
            ),
            share,
        )

    def fast():
        found["ours"] = _describe(ours.generate(image), encoder.features(image).float())

    def stock():
        masks = found["stock"] = _stock_proposals(other, image).masks
        _plain_pool(encoder.features(image).float(), masks)

    times = alternate([fast, stock], rounds=5, device=device)
    return times, f"{len(found['ours'])} masks against {len(found['stock'])}"


def decoder_rows(image):
    "On the CPU, behind the encoder."
    generators, kept = [ours(), stock(), theirs(), *map(chunked, CHUNKS)], {}

    def turn(i):
        kept[i] = generators[i](image)

    times = alternate([partial(turn, i) for i in range(len(generators))], rounds=2, least=2, turn=0)
    found, size = kept[0], f"ViT-B's decoder, {POINTS}x{POINTS} points, {SIZE[0]}x{SIZE[1]}, float32"
    memory = tuple(peak("proposals", "a(picture())", f"{which}()") for which in ("ours", "stock"))
    yield Row(
        "mask generation",
        size,
        times[0],
        "segment_anything",
        times[1],
        agreement(found, kept[1].masks),
        "at least 3 times faster, after the encoder",
        memory=memory,
    )
    yield Row("mask generation", size, times[0], "transformers' pipeline", times[2], agreement(found, kept[2]))
    for i, chunk in enumerate(CHUNKS, 3):
        yield Row(
            "mask generation",
            size,
            times[0],
            f"ours, {chunk} points at a time instead of 4",
            times[i],
            agreement(found, kept[i].masks),
        )


@torch.inference_mode()
def encoder_row(device, dtype):
    "SAM's encoder with fused attention against the library's, both in a precision, and their distance from float32."
    torch.manual_seed(0)
    exact, pixels = build_sam().to(device).image_encoder, torch.randn(1, 3, 1024, 1024).to(device)
    ours, theirs = (in_dtype(encoder, dtype) for encoder in (fused_encoder(exact), exact))
    truth = exact(pixels)
    apart = [((e(pixels.to(dtype)).float() - truth).abs().max() / truth.abs().max()).item() for e in (ours, theirs)]
    given = pixels.to(dtype)
    fast, slow = alternate([lambda: ours(given), lambda: theirs(given)], device=device)
    return Row(
        "image encoder",
        f"SAM ViT-B, random weights, {str(dtype).removeprefix('torch.')}, {device}; per image",
        fast,
        "segment_anything",
        slow,
        "{:.2g} of the largest value from float32, the library's {:.2g}".format(*apart),
    )


def run(device="cpu"):
    image = picture()
    if device == "cpu":
        yield from decoder_rows(image)
    else:
        yield from (encoder_row(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    size, other = (
        "SAM ViT-B, 32x32 points, DINOv2 ViT-B/14, 480x640, bfloat16, random weights, on a GPU; per image",
        "segment_anything in float32, full-size pooling",
    )
    spent, found = stage2(image, device) if device == "cuda" else ((None, None), "")
    yield Row(
        "stage 2",
        size,
        spent[0],
        other,
        spent[1],
        found,
        "at least 12 images/s on an H200, and 8 times faster",
        floor=6.3,
    )
