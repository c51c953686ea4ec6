"""Features under masks: only the pixels that the grid reads, against F.interpolate of full-size masks; and the whole
way from low-resolution logits."""

import torch
import torch.nn.functional as F
from rim.method.pooling import pool
from rim.models.fast_sam import Axis, full_masks
from bench.harness import Row, alternate

MASKS, CHANNELS = 70, 768


def logits(seed=0):
    "Discs of many sizes as SAM's low-resolution logits, [P, 256, 256]."
    g = torch.Generator().manual_seed(seed)
    x, y, radius = (torch.rand(MASKS, 1, 1, generator=g) for _ in range(3))
    places = torch.arange(256) / 256
    return 100 * (0.05 + 0.2 * radius - torch.hypot(places[None, None] - x, places[None, :, None] - 0.75 * y))


def averaged(grid, masks):
    "Mean feature under masks that are resized at full size."
    weights = F.interpolate(masks[None].float(), grid.shape[1:], mode="bilinear")[0].flatten(1)
    return weights @ grid.flatten(1).T / weights.sum(1, keepdim=True)


def resized(low, size):
    "`Sam.postprocess_masks` for an image of this size."
    inside = [round(s * 1024 / max(size)) for s in size]
    up = F.interpolate(low[None], (1024, 1024), mode="bilinear")[..., : inside[0], : inside[1]]
    return F.interpolate(up, size, mode="bilinear")[0] > 0


def blockwise(low, size):
    inside = [round(s * 1024 / max(size)) for s in size]
    return full_masks(low, *(Axis(256, 1024, part, full) for part, full in zip(inside, size)), 0).numpy()


def run():
    low = logits()
    for size, shape in (((480, 640), (28, 37)), ((1024, 1024), (37, 37))):
        grid, masks = torch.randn(CHANNELS, *shape, generator=torch.Generator().manual_seed(1)), blockwise(low, size)
        some = masks.any((1, 2))
        at, words = masks[some], f"{some.sum()} masks of {size[0]}x{size[1]}, {CHANNELS}x{shape[0]}x{shape[1]} features"
        ours, theirs = alternate([lambda: pool(grid, at), lambda: averaged(grid, torch.from_numpy(at))], rounds=5)
        apart = (pool(grid, at)[0] - averaged(grid, torch.from_numpy(at))).abs().max().item()
        yield Row(
            "pooling",
            words,
            ours,
            "F.interpolate of the masks",
            theirs,
            f"{apart:.0e} at most",
            "at least 20 times faster",
        )
        ours, theirs = alternate(
            [lambda: pool(grid, blockwise(low[some], size)), lambda: averaged(grid, resized(low[some], size))], rounds=3
        )
        differ = int((resized(low, size).numpy() != masks).sum())
        yield Row(
            "masks and pooling",
            words,
            ours,
            "postprocess_masks, then F.interpolate",
            theirs,
            f"{differ} of {masks.size} pixels differ",
        )
