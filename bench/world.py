"""Images of the toybox world: drawing from a seed against reading the same images from PNG files."""

from io import BytesIO
from itertools import cycle
import numpy as np
from PIL import Image
from rim.toybox.world import World
from bench.harness import Row, alternate


def png(array):
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def read(files):
    return [np.asarray(Image.open(BytesIO(f))) for f in files]


def run(n=64):
    world = World()
    seeds = list(world.seeds("validation", n))
    kinds = {
        "scene, 128 px": (lambda s: world.scene(s), lambda shot: (shot.image, shot.instances, shot.labels)),
        "portrait, 64 px": (
            lambda s: world.portrait(world.names[s % len(world.names)], s),
            lambda shot: (shot.image, shot.mask),
        ),
    }
    for kind, (draw, parts) in kinds.items():
        files = [[png(a) for a in parts(draw(s))] for s in seeds]
        one, other = cycle(seeds), cycle(files)
        ours, disk = alternate([lambda: [draw(next(one)) for _ in seeds], lambda: [read(next(other)) for _ in seeds]])
        same = all(np.array_equal(a, b) for s, f in zip(seeds, files) for a, b in zip(parts(draw(s)), read(f)))
        yield Row(
            f"toybox {kind.split(',')[0]}",
            f"{n} images, {kind.split(', ')[1]}",
            ours,
            "decoding PNG files",
            disk,
            "equal" if same else "DIFFERENT",
        )
