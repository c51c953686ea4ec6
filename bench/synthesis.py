"""Reference images with their attention: ours against the stock pipeline, one image at a time, with an explicit
softmax captured on the way."""

import numpy as np, torch
from rim.models.loading import load_diffusion
from rim.base.settings import Settings
from rim.method.synthesis import class_tokens, _first_noise, image_seed, prompt_length, synthesise
from bench.capture import ExplicitCapture
from bench.harness import Row, alternate

OTHER, FLOOR = (
    "StableDiffusionPipeline per image, explicit softmax",
    105.0,
)  # milliseconds, per image of 512x512 in 50 steps with guidance


def stock(pipeline, items, settings):
    "What a user writes: the library's pipeline, a seed per image."
    made, length = [], prompt_length(pipeline)
    for prompt, name, k in items:
        generator = torch.Generator().manual_seed(image_seed(settings.seed, name, k))
        latents = _first_noise(pipeline, [generator], settings.image_size)
        with ExplicitCapture(
            pipeline.unet, [class_tokens(pipeline.tokenizer, prompt, name, length)], tuple(latents.shape[2:])
        ) as capture:
            image = pipeline(
                prompt,
                height=settings.image_size,
                width=settings.image_size,
                num_inference_steps=settings.denoising_steps,
                guidance_scale=settings.guidance,
                latents=latents,
                output_type="np",
            ).images[0]
        made.append((image, capture.maps()[0].cpu().numpy()))
    return made


def compare(stage, settings, names, each, rounds, device, target="", floor=None, singly=None):
    "Images of several classes in shared batches, and the same ones, or the first few of them, singly."
    pipeline = load_diffusion(settings)
    items = [(settings.prompt.format(name), name, k) for name in names for k in range(each)]
    kept = {}

    def ours():
        kept["ours"] = list(synthesise(pipeline, items, settings))

    def theirs():
        kept["theirs"] = stock(pipeline, items[:singly], settings)

    fast, slow = alternate([ours, theirs], rounds=rounds, least=rounds, device=device, turn=0)
    fast, slow = fast / len(items), slow / len(kept["theirs"])
    pixels = [np.abs(a.image - (255 * b[0]).round()) for a, b in zip(kept["ours"], kept["theirs"])]
    maps = [((a.attention >= 0.7), (b[1] >= 0.7)) for a, b in zip(kept["ours"], kept["theirs"])]
    overlap = np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in maps])
    size = (
        f"{len(names)} classes x {each}, {settings.image_size} px, {settings.denoising_steps} steps, "
        f"{settings.dtype}; per image"
    )
    return Row(
        stage,
        size,
        fast,
        OTHER,
        slow,
        f"{np.mean(pixels):.2g} of 255 apart on average, masks IoU {overlap:.3f}",
        target,
        floor,
    )


def run(device="cpu"):
    names = ["boat", "tree", "car", "fish"]
    yield compare("synthesis, toybox", Settings.from_profile("toybox", device=device), names, 2, 2, device)
    paper = dict(pretrained=False, device=device, redraws=0)
    if device == "cuda":
        yield compare(
            "synthesis, Stable Diffusion 1.4, random weights",
            Settings.from_profile("paper", dtype="bfloat16", synthesis_batch=16, **paper),
            names,
            4,
            3,
            device,
            "at least 3.5 images/s on an H200",
            FLOOR,
            singly=4,
        )
        yield compare(
            "synthesis, Stable Diffusion 1.4, random weights, compiled",
            Settings.from_profile("paper", dtype="bfloat16", synthesis_batch=16, compile=True, **paper),
            names,
            4,
            2,
            device,
            "at least 3.5 images/s on an H200",
            FLOOR,
            singly=2,
        )
    else:
        yield compare(
            "synthesis, Stable Diffusion 1.4, random weights",
            Settings.from_profile("paper", denoising_steps=1, image_size=128, synthesis_batch=4, **paper),
            names[:2],
            1,
            1,
            device,
        )
        yield Row(
            "synthesis, Stable Diffusion 1.4",
            "512 px, 50 steps, bfloat16, on a GPU; per image",
            None,
            OTHER,
            target="at least 3.5 images/s on an H200",
            floor=FLOOR,
        )
