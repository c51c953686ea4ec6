"""Trident's aggregation at SAM ViT-B's real size: rows in chunks against the matrices as they are written."""

import torch
import torch.nn.functional as F
from rim.trident.aggregation import SamTokens, aggregate
from bench.harness import Row, alternate, peak

HEADS, SIDE, WIDTH, CHANNELS, COS_FAC = 12, 64, 64, 768, 1.2  # of SAM's last block; channels of CLIP's canvas


def inputs(grid):
    "Tokens of an image whose valid part is `grid`, and a canvas of CLIP's features."
    g, n = torch.Generator().manual_seed(0), grid[0] * grid[1]

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    tokens = SamTokens(
        draw(HEADS, n, WIDTH),
        draw(HEADS, SIDE * SIDE, WIDTH),
        1 + draw(HEADS, n, WIDTH),
        draw(HEADS, n, SIDE),
        draw(HEADS, n, SIDE),
        grid,
        (16 * grid[0], 16 * grid[1]),
        (16 * grid[0], 16 * grid[1]),
        torch.zeros(1),
    )
    return tokens, draw(CHANNELS, 28, 42)


def ours(tokens, canvas):
    return aggregate(tokens, canvas, COS_FAC, True)


def written(tokens, canvas):
    "The same in whole matrices, heads x N x N."
    (h, w), unit = tokens.grid, F.normalize(tokens.value, dim=-1)
    scores = (tokens.query * WIDTH**-0.5) @ tokens.key.transpose(1, 2)
    scores = scores.unflatten(2, (SIDE, SIDE)) + tokens.rows[..., None] + tokens.columns[:, :, None]
    attention = scores.flatten(2).softmax(-1).unflatten(2, (SIDE, SIDE))[..., :h, :w].flatten(2)
    cosine = unit @ unit.transpose(1, 2)
    tau = (COS_FAC * cosine.mean((0, 2))).clamp(max=0.9)
    kept = torch.where(cosine > tau[:, None], attention, 0).mean(0)
    X = F.interpolate(canvas[None], tokens.grid, mode="bilinear")[0].flatten(1).T
    return (kept / kept.sum(-1, keepdim=True) @ X).T.unflatten(1, tokens.grid)


def run():
    for grid in ((43, 64), (64, 64)):
        tokens, canvas = inputs(grid)
        fast, plain = alternate([lambda: ours(tokens, canvas), lambda: written(tokens, canvas)], rounds=3)
        apart = (ours(tokens, canvas) - written(tokens, canvas)).abs().amax(0).flatten()
        tied = (apart > 1e-5).float().mean().item()  # places where a cosine lies at its threshold, to rounding
        memory = tuple(peak("trident", f"{which}(*a)", f"inputs({grid})") for which in ("ours", "written"))
        yield Row(
            "Trident's aggregation",
            f"{grid[0]}x{grid[1]} places, {HEADS} heads, float32",
            fast,
            "whole matrices",
            plain,
            (
                f"{apart[apart <= 1e-5].max().item():.0e} at most, but for {100 * tied:.1f} % of the places, "
                "where a cosine lies at its threshold"
            ),
            memory=memory,
        )
