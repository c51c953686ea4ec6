"""Trident's aggregation at SAM ViT-B's real size: rows in chunks against the matrices as they are written."""
import subprocess, sys
import torch
import torch.nn.functional as F
from rim.trident import SamTokens, aggregate
from bench.harness import Row, alternate

HEADS, SIDE, WIDTH, CHANNELS = 12, 64, 64, 768  # of SAM's last block; channels of CLIP's canvas

def inputs(grid):
    "Tokens of a picture whose valid part is `grid`, and a canvas of CLIP's features."
    g, n = torch.Generator().manual_seed(0), grid[0] * grid[1]
    def draw(*shape): return torch.randn(*shape, generator=g)
    tokens = SamTokens(draw(HEADS, n, WIDTH), draw(HEADS, SIDE * SIDE, WIDTH), 1 + draw(HEADS, n, WIDTH), draw(HEADS, n, SIDE), draw(HEADS, n, SIDE), grid,
                       (16 * grid[0], 16 * grid[1]), (16 * grid[0], 16 * grid[1]), torch.zeros(1))
    return tokens, draw(CHANNELS, 28, 42)

def written(tokens, canvas, cos_fac=1.2):
    "The same in whole matrices, heads x N x N."
    (h, w), unit = tokens.grid, F.normalize(tokens.value, dim=-1)
    scores = (tokens.query * WIDTH ** -0.5) @ tokens.key.transpose(1, 2)
    scores = scores.unflatten(2, (SIDE, SIDE)) + tokens.rows[..., None] + tokens.columns[:, :, None]
    attention = scores.flatten(2).softmax(-1).unflatten(2, (SIDE, SIDE))[..., :h, :w].flatten(2)
    cosine = unit @ unit.transpose(1, 2)
    tau = (cos_fac * cosine.mean((0, 2))).clamp(max=0.9)
    kept = torch.where(cosine > tau[:, None], attention, 0).mean(0)
    X = F.interpolate(canvas[None], tokens.grid, mode="bilinear")[0].flatten(1).T
    return (kept / kept.sum(-1, keepdim=True) @ X).T.unflatten(1, tokens.grid)

def gigabytes(which, grid):
    "Peak memory of one form in a process of its own, less what its inputs take."
    code = f"import resource, torch; torch.set_num_threads(1); from bench.trident import *; a = inputs({grid}); peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); {which}(*a); print(peak() - before)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) / 2**20

def run():
    for grid in ((43, 64), (64, 64)):
        tokens, canvas = inputs(grid)
        ours, theirs = alternate([lambda: aggregate(tokens, canvas), lambda: written(tokens, canvas)], rounds=3)
        apart = (aggregate(tokens, canvas) - written(tokens, canvas)).abs().max().item()
        small, large = (gigabytes(which, grid) for which in ("aggregate", "written"))
        yield Row("Trident's aggregation", f"{grid[0]}x{grid[1]} places, {HEADS} heads, float32", ours, "whole matrices", theirs, f"{apart:.0e} at most; {small:.2f} against {large:.2f} GB")
