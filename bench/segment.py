"""`rim segment` on the toybox, per image, references there already: the fast path against the plain one, the
library's own generator and enumeration included."""

from rim.measure.agreement import _Plain
from rim.method.segmenter import RIM
from rim.toybox.world import World
from bench.harness import Row, alternate

CLASSES, SCENES = "boat, fish, house, tree", 4


def run():
    rim, world = RIM.from_profile("toybox", images_per_class=4), World()
    images, bank = [world.scene(1_000_000 + i).image for i in range(SCENES)], rim.bank_for(CLASSES)
    plain = _Plain(rim)

    def each(segment):
        return [segment(image, CLASSES).labels for image in images]

    ours, theirs = alternate([lambda: each(rim.segment), lambda: each(plain.segment)], rounds=3)
    same = sum((a == b).sum() for a, b in zip(each(rim.segment), each(plain.segment))) / sum(
        image[..., 0].size for image in images
    )
    yield Row(
        "segment, toybox",
        f"one scene of 128x128, {len(bank.names)} classes",
        ours / SCENES,
        "stock generator, full-size pooling, all orders",
        theirs / SCENES,
        f"{same:.4%} of the pixels equal",
        "at most 500 ms",
    )
