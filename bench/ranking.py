"""Ranking similarity: recursion over 2^N subsets against enumeration of N! orders, each region against 81
references."""

import math, torch
from rim.method.ranking import pairwise_ranking_similarity, ranking_distribution
from bench.harness import Row, alternate

REFERENCES, MEMORY = 81, 2**25  # the enumeration goes over chunks of regions, as many as fit into so many numbers


def enumerated(regions, references):
    "Eq. 7 to 9 as they are written."
    chunk = max(1, MEMORY // (REFERENCES * math.factorial(regions.shape[-1]) * regions.shape[-1]))
    parts = zip(regions.split(chunk), references.split(chunk))
    return torch.cat(
        [torch.cosine_similarity(ranking_distribution(a)[:, None], ranking_distribution(b), -1) for a, b in parts]
    )


def run(sizes=range(2, 9)):
    for n in sizes:
        count = 64 if n < 7 else 4  # regions
        generator = torch.Generator().manual_seed(n)
        regions, references = (
            0.2 + 0.8 * torch.rand(*shape, n, generator=generator) for shape in ((count,), (count, REFERENCES))
        )
        ours, theirs = alternate(
            [lambda: pairwise_ranking_similarity(regions, references), lambda: enumerated(regions, references)]
        )
        apart = (pairwise_ranking_similarity(regions, references) - enumerated(regions, references)).abs().max().item()
        yield Row(
            "ranking similarity",
            f"N={n}, {count}x{REFERENCES}, float32",
            ours,
            f"enumeration of {math.factorial(n)} orders",
            theirs,
            f"{apart:.0e} at most",
            {4: "at least 10 times faster", 8: "at least 1000 times faster"}.get(n, ""),
        )
