"""Results of `rim segment` with all that makes handing them on hard: names in any letters, folders and blanks,
overlaps, reserved values, and an image without anything."""

import json
import numpy as np
from PIL import Image
from rim.exchange.items import Instance, read_results
from rim.method.segmentation import mask_box, to_rle
from rim.method.vocabulary import Vocabulary

HARD = ("apple, red", 'maison "à" l’été', "猫")


def results_of(
    root,  # photos/ and results/ are made in it
    vocabulary,
    maps,  # dict: file of an image -> (labels uint16 [H, W], instances)
):
    "Results as they lie on disk, read again."
    for file, (labels, instances) in maps.items():
        (photo := root / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*labels.shape, 3), 90, np.uint8)).save(photo)
        path = (root / "results" / file).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels if len(vocabulary.labels) > 254 else labels.astype(np.uint8)).save(path)
        regions = [
            {"class": "", "label": i.label, "score": i.score, "box": mask_box(i.mask), "segmentation": to_rle(i.mask)}
            for i in instances
        ]
        facts = {"size": labels.shape, "names": vocabulary.labels, "legend": [], "regions": regions, "record": {}}
        path.with_suffix(".json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        Image.new("RGB", (4, 4)).save(path.with_name(f"{path.stem}_overlay.png"))
    return read_results(root / "results", root / "photos")


def hard_results(root):
    "Four images with three classes."
    words = Vocabulary(HARD)
    first, (one, two, ground) = np.zeros((10, 16), np.uint16), np.zeros((3, 10, 16), bool)
    one[1:7, 1:9], two[4:9, 5:14], ground[5:] = True, True, True
    first[one], first[two] = 1, 2
    first[0, 12:], first[9, :3], first[6, 6] = 255, 254, 3  # a pixel that no region explains
    full = np.full((5, 5), 3, np.uint16)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4, (21, 17)).astype(np.uint16)
    return results_of(
        root,
        words,
        {
            "a b/one, two.png": (first, (Instance(one, 1, 0.75), Instance(two, 2, 0.5), Instance(ground, 0, 0.25))),
            "ü/zwei.png": (full, (Instance(np.ones((5, 5), bool), 3, 1.0),)),
            "nothing.png": (np.zeros((6, 9), np.uint16), ()),
            "noise.png": (noise, tuple(Instance(noise == k, k, 0.5) for k in (1, 2, 3))),
        },
    )
