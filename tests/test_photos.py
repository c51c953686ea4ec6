"""The benchmark of photographs: its split is fixed, its scorings agree, and what doesn't fit is named."""

import numpy as np, pytest
from PIL import Image
from rim.base.settings import Settings
from rim.measure.datasets import get_benchmark
from rim.measure.published import PhotosBenchmark
from rim.measure.published import _category_table as category_table
from rim.measure.published import _COCO_THINGS as COCO_THINGS, _VOC_THINGS as VOC_THINGS
from rim.method.vocabulary import IGNORE
from rim.method.words import coco_things, known_words


@pytest.fixture
def folder(tmp_path):
    "Seven photographs of train and two of val, as published folders have them."
    values = np.zeros((20, 30), np.uint8)
    values[:5], values[5:10], values[10:15] = 255, 17, 90
    for split, n in (("train", 7), ("val", 2)):
        for name in ("images", "coco_ids"):
            (tmp_path / "photos/coco" / split / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"photos/coco/{split}/images/{i:012}.jpg")
            Image.fromarray(values).save(tmp_path / f"photos/coco/{split}/coco_ids/{i:012}.png")
    return tmp_path


def keys(name, folder, **more):
    benchmark = get_benchmark(name, Settings.from_profile("photo", data_dir=folder, **more))
    benchmark.check()
    return [int(stem) for stem, *_ in benchmark.items]


def test_the_split_is_fixed(folder):
    assert keys("photos", folder) == keys("photos:voc", folder) == [0, 1]
    assert keys("photos:voc:tuning", folder) == [1, 4]
    assert keys("photos:voc:references", folder) == [0, 2, 3, 5, 6]
    assert keys("photos:voc:train", folder, benchmark_images=3) == [0, 1, 2]
    assert keys("photos", folder / "photos/coco/val") == [0, 1]


def test_two_scorings_of_one_map(folder):
    coco, voc = (PhotosBenchmark(folder, scoring=s) for s in ("coco-object", "voc"))
    labels = {b.name: [b.vocabulary.labels[v] if v != IGNORE else v for v in np.unique(b[0][1])] for b in (coco, voc)}
    assert labels == {
        "photos-coco-object": ["background", "cat", "toothbrush", IGNORE],
        "photos-voc": ["background", "cat", IGNORE],
    }


def test_tables_name_what_the_words_name():
    things, words = coco_things(), known_words()
    for categories, names in ((COCO_THINGS, "coco-object"), (VOC_THINGS, "voc")):
        labels = _names(names)
        assert [words.find(name) for name in labels] == [things[c] for c in categories]
    assert (category_table(VOC_THINGS)[list(COCO_THINGS)] >= 0).all() and category_table(VOC_THINGS)[12] == -1


def _names(names):
    from rim.measure.folders import read_names
    from rim.measure.sources import names_file

    return read_names(names_file(names), True).names


def test_what_does_not_fit_is_named(folder, tmp_path):
    (folder / "photos/coco/val/coco_ids/000000000001.png").unlink()
    with pytest.raises(FileNotFoundError, match="000000000001 have none"):
        get_benchmark("photos", Settings.from_profile("photo", data_dir=folder))
    with pytest.raises(FileNotFoundError, match="images/ and coco_ids/"):
        PhotosBenchmark(tmp_path / "nothing")
    with pytest.raises(ValueError, match="got coco-object, test"):
        PhotosBenchmark(folder, part="test")
    with pytest.raises(FileNotFoundError, match="data_dir"):
        get_benchmark("photos", Settings.from_profile("photo", data_dir=""))
