"""Many images: names that don't collide, results that stay in their folder, and a COCO file that COCO's own reader
reads."""

import os
import numpy as np, pytest
from PIL import Image
from pycocotools.coco import COCO as Reader
from rim.apps.batch import COCO, enlarge, find_pictures, segment_pictures, write_coco
from rim.base.files import clean
from rim.method.segmentation import Method, Region, Segmentation, mask_box
from rim.base.settings import Settings
from rim.method.vocabulary import Vocabulary


class Left:
    "Finds the first class in the left half, and label 0 in the same place."

    settings, calls = Settings.from_profile("toybox"), 0

    def method(self, vocabulary):
        return Method(None, key={"method": "left"})

    def segment(self, image, vocabulary):
        self.calls += 1
        if image.mean() > 254:
            raise RuntimeError("too bright")
        left, first = np.indices(image.shape[:2])[1] < image.shape[1] // 2, int(vocabulary.background)
        regions = [Region(left, mask_box(left), label, vocabulary.labels[label], 0.5) for label in (first, 0)]
        return Segmentation(image, np.where(left, first, 0), vocabulary, tuple(regions))


@pytest.fixture
def photos(tmp_path, tiny_image):
    "photos/{1.png, a/1.png, b/c/2.jpg, notes.txt, .hidden.png}"
    root = tmp_path / "photos"
    for name in ("1.png", "a/1.png", "b/c/2.jpg", ".hidden.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny_image).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def files(pictures):
    return sorted(p.file for p in pictures)


def test_what_is_read(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert files(find_pictures([photos], out)) == ["1.png"]
    assert files(find_pictures([photos], out, True)) == ["1.png", "a/1.png", "b/c/2.jpg"]
    assert files(find_pictures([photos / "**" / "*.*"], out)) == ["1.png", "a/1.png", "b/c/2.jpg"]
    assert files(find_pictures([photos / "*" / "1.png"], out)) == ["a/1.png"]
    assert files(find_pictures([photos / "1.png", photos, photos / "[1].png"], out)) == ["1.png"], "each once"
    monkeypatch.chdir(photos)
    assert files(find_pictures(["*.png"], out)) == ["1.png"]
    (photos / "[x].png").write_bytes((photos / "1.png").read_bytes())
    assert files(find_pictures(["[x].png"], out)) == ["[x].png"], "what exists is no pattern"


def test_folders_that_contain_themselves(photos, tmp_path):
    (photos / "a" / "loop").symlink_to(photos)
    assert len(find_pictures([photos], tmp_path / "out", True)) == 3


@pytest.mark.promise(35)
def test_linked_folders_are_looked_into_once(photos, tmp_path, tiny_image):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    Image.fromarray(tiny_image).save(tmp_path / "disk" / "deep" / "3.png")
    (photos / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(photos)
    (photos / "0").symlink_to(photos / "a")
    (photos / ".hidden").symlink_to(tmp_path / "disk")
    (photos / "gone").symlink_to(tmp_path / "nowhere")
    found = files(find_pictures([photos], tmp_path / "out", True))
    assert found == ["1.png", "a/1.png", "b/c/2.jpg", "linked/deep/3.png"]
    assert set(found) <= set(files(find_pictures([photos / "**" / "*.*"], tmp_path / "out")))


@pytest.mark.promise(35)
def test_what_is_passed_over_is_named(photos, tmp_path):
    for name in ("a/IMG_1.HEIC", "b/c/film.mp4", ".hidden.heic", "out/1.json"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"?")
    find_pictures([photos], photos / "out", True, others := [])
    assert {f.name for f in others} == {"IMG_1.HEIC", "film.mp4", "notes.txt"}
    find_pictures([photos / "**" / "*"], tmp_path / "out", others=(others := []))
    assert {f.name for f in others} == {"IMG_1.HEIC", "film.mp4", "notes.txt", "1.json"}
    (photos / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match="no images in .*a .*passed over: 1 of no allowed ending .*IMG_1.HEIC"):
        find_pictures([photos / "a"], tmp_path / "out")


@pytest.mark.parametrize(
    "given, named",
    [
        (["1.png", "a/1.png"], "would both have 1.png"),
        (["1.png", "1.jpg"], "1.jpg"),
        (["1.png", "1_overlay.png"], "1_overlay.png"),
        (["1.png", "A/1.PNG"], "1.png"),
        (["coco.png"], "coco.json"),
        (["nowhere.png"], "no image file"),
        (["a/*.jpg"], "no images in"),
        (["b"], "--recursive"),
        (["a/../*/../1.png"], "leave"),
    ],
)
def test_names_that_cannot_be(photos, tmp_path, given, named):
    for name in ("1.jpg", "1_overlay.png", "coco.png", "A/1.PNG"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "1.png").read_bytes())
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        find_pictures([f"{photos}/{name}" for name in given], tmp_path / "out")


def test_no_picture_is_overwritten(photos):
    with pytest.raises(ValueError, match="overwrite the image"):
        find_pictures([photos], photos)
    assert find_pictures([photos], photos / "out", True)


def test_results_lie_apart_from_images(photos, tmp_path):
    for given, out in ((photos / "b/c", photos / "b/c"), (photos / "b", photos / "b"), (photos / "b/c/2.jpg", "b/c")):
        with pytest.raises(ValueError, match=r"would lie beside the image .*2.jpg"):
            find_pictures([given], photos / out, True)
    (tmp_path / "link").symlink_to(photos / "b/c")
    with pytest.raises(ValueError, match="would lie beside the image"):
        find_pictures([photos / "b/c"], tmp_path / "link")
    assert files(find_pictures([photos / "b/c"], photos / "b")) == ["2.jpg"], "a folder above is another folder"


def test_results_of_an_earlier_run_are_no_images(photos, tmp_path):
    first, other = photos / "first", tmp_path / "other"
    found = find_pictures([photos], first, True)
    assert not any(o.fault for o in segment_pictures(Left(), "boat", found, first))
    for given in (photos, photos / "**" / "*.*"):
        assert (
            files(find_pictures([given], other, True, others := []))
            == files(found)
            == ["1.png", "a/1.png", "b/c/2.jpg"]
        )
        assert [f.name for f in others] == ["notes.txt"]
    for given in (first, first / "1.png", first / "1_overlay.png"):
        with pytest.raises(FileNotFoundError, match="results of an earlier run"):
            find_pictures([given], other)
    for result in ("1.png", "1_overlay.png", "1.json"):  # a run of before that rule, its results beside the image
        (first / result).rename(photos / "b/c" / result.replace("1", "2"))
    assert files(find_pictures([photos / "b/c"], other)) == ["2.jpg"]
    (photos / "b/c/2.json").write_text('{"shapes": [], "imagePath": "2.png"}')
    with pytest.raises(ValueError, match="would both have 2.png"):
        find_pictures([photos / "b/c"], other)


def test_a_broken_picture_stops_nothing_and_a_second_run_does_the_rest(photos, tmp_path):
    (photos / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9), "white").save(photos / "9.png")
    left, out = Left(), tmp_path / "out"
    pictures = find_pictures([photos], out, True)
    first = {o.picture.file: o.fault for o in segment_pictures(left, "boat", pictures, out)}
    assert (
        "can't be read" in first["0.png"]
        and first["9.png"] == "too bright"
        and [first[f] for f in ("1.png", "a/1.png", "b/c/2.jpg")] == ["", "", ""]
    )
    before = left.calls
    assert sum(o.skipped for o in segment_pictures(left, "boat", pictures, out)) == 3 and left.calls == before + 1
    (out / "1.json").write_text("{}")
    assert sum(o.skipped for o in segment_pictures(left, "boat", pictures, out)) == 2, "a damaged result is made again"
    for change in (dict(force=True), dict(longest=16)):
        assert not any(o.skipped for o in segment_pictures(left, "boat", pictures, out, **change))
    left.settings = left.settings.replace(agents=3)
    assert not any(o.skipped for o in segment_pictures(left, "boat", pictures, out, longest=16))
    left.settings = left.settings.replace(store="elsewhere")
    assert sum(o.skipped for o in segment_pictures(left, "boat", pictures, out, longest=16)) == 3


def test_results_do_not_leave_through_a_link(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    faults = [
        o.fault
        for o in segment_pictures(Left(), "boat", find_pictures([photos], tmp_path / "out", True), tmp_path / "out")
    ]
    assert sum("leads out of it" in f for f in faults) == 1 and not list((tmp_path / "elsewhere").iterdir())


def test_names_of_any_bytes(tmp_path, tiny_image):
    for name in (b"\xff\xfe.png", b"a\nb\x1b[31m.png", b"back\\slash.png"):
        Image.fromarray(tiny_image).save(os.path.join(os.fsencode(tmp_path), name).decode("utf-8", "surrogateescape"))
    outcomes = list(segment_pictures(Left(), "boat", find_pictures([tmp_path], tmp_path / "out"), tmp_path / "out"))
    assert len(outcomes) == 3 and all(clean(o.picture.path).isprintable() for o in outcomes)
    write_coco(
        tmp_path / "out" / COCO, [o.picture for o in outcomes if not o.fault], tmp_path / "out", Vocabulary.of("boat")
    )


@pytest.mark.promise(36)
@pytest.mark.parametrize("background", [True, False])
def test_coco_reads_it(photos, tmp_path, background, capsys):
    out, words = tmp_path / "out", Vocabulary.of(["boat", "tree"], background)
    pictures = find_pictures([photos], out, True)
    assert not any(o.fault for o in segment_pictures(Left(), words, pictures, out))
    coco = Reader(write_coco(out / COCO, pictures, out, words))
    assert [i["file_name"] for i in coco.dataset["images"]] == [p.file for p in pictures] and [
        c["name"] for c in coco.dataset["categories"]
    ] == ["boat", "tree"]
    assert len(coco.anns) == (3 if background else 6) and {a["category_id"] for a in coco.anns.values()} == {1}
    coco.info()
    assert coco.getCatIds(supNms=["thing"]) == [] and set(coco.dataset) >= {"info", "licenses"}
    licences = {kind["id"] for kind in coco.dataset["licenses"]}
    assert all(i["license"] in licences for i in coco.dataset["images"])
    found = coco.anns[1]
    assert (
        found["bbox"] == [0, 0, 16, 24]
        and coco.annToMask(found)[:, :16].all()
        and coco.annToMask(found).sum() == found["area"] == 384
    )
    assert len(coco.loadRes([{k: found[k] for k in ("image_id", "category_id", "segmentation", "score")}]).anns) == 1


def test_large_pictures_keep_their_size(tmp_path):
    Image.new("RGB", (61, 41), "red").save(tmp_path / "large.png")
    out = tmp_path / "out"
    pictures = find_pictures([tmp_path / "large.png"], out)
    assert [o.fault for o in segment_pictures(Left(), "boat", pictures, out, longest=20)] == [""]
    labels = Image.open(out / "large.png")
    assert labels.size == (61, 41) and labels.mode == "P" and 0.45 < np.mean(np.asarray(labels) == 1) < 0.55
    coco = Reader(write_coco(out / COCO, pictures, out, Vocabulary.of("boat")))
    assert (coco.annToMask(coco.anns[1]) == np.asarray(labels)).all() and coco.anns[1]["bbox"][3] == 41


def test_enlarge(rng):
    mask = rng.integers(0, 5, (3, 4))
    assert (enlarge(mask, (6, 12)) == mask.repeat(2, 0).repeat(3, 1)).all() and (enlarge(mask, (3, 4)) == mask).all()
