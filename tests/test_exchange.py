"""Labels that are handed on and come back: lossless, checked with the tools' own code where PyPI has it, and refused in
one sentence where a format can't hold them."""

import json, re, tracemalloc, zipfile
import hypothesis.strategies as st, numpy as np, pytest
from hypothesis import given
from PIL import Image
from rim.apps.cli import main
from rim.exchange.archives import _MOST_READ, _MOST_UNPACKED, read_entry, unpack_archive
from rim.exchange.back import _names_text, write_benchmark, write_references
from rim.exchange.coco import read_instances
from rim.exchange.cvat import _box_runs, _runs_mask
from rim.exchange.handing import READERS, WRITERS, export_labels, import_labels
from rim.exchange.items import Annotations, Instance, new_folder, read_results, reserved_labels, segments
from rim.exchange.label_studio import brush_mask, _brush_rle
from rim.exchange.polygons import _fill, _polygons
from rim.exchange.training import export_dataset, _split_by_hash
from rim.measure.folders import FolderBenchmark
from rim.method.photographs import photographs_in
from rim.method.segmentation import mask_box
from rim.method.vocabulary import Vocabulary
from handed import HARD, hard_results, results_of

EXACT = [f for f in READERS if f != "coco"]  # formats that keep the label map
MASKS = (
    st.integers(0, 2**32)
    .map(lambda s: np.random.default_rng(s))
    .map(lambda g: g.random(g.integers(1, 13, 2)) < g.choice([0.1, 0.5, 0.9]))
)


@pytest.fixture
def results(tmp_path):
    return hard_results(tmp_path)


def test_results_are_read_as_they_are(results):
    assert results.vocabulary.labels == ("background", *HARD)
    assert results.files[0] == "a b/one, two.png" and len(results) == 4
    first = results[0]
    assert {255, 254} <= set(np.unique(first.labels).tolist()) and len(first.instances) == 3
    assert (first.instances[0].mask & first.instances[1].mask).any()
    assert sum(s.mask for s in segments(first)).max() == 1, "segments do not overlap"


@pytest.mark.promise(64)
@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("names", ["file's", "given"])
def test_label_maps_come_back(results, tmp_path, form, names):
    export_labels(results, tmp_path / "out", form)
    back = import_labels(tmp_path / "out", results.images, form, results.vocabulary if names == "given" else None)
    assert sorted(back.files) == sorted(results.files)
    for item in results:
        found = back[back.files.index(item.file)].labels
        if names == "file's" and form == "label-studio":  # its labels are those that occur, by name
            found = renumbered(found, back.vocabulary, results.vocabulary)
        assert (found == item.labels).all(), item.file


def renumbered(labels, old, new):
    out = labels.copy()
    for value, name in enumerate(old.labels):
        out[labels == value] = new.index(name)
    return out


@pytest.mark.promise(64)
@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("n, background", [(300, True), (255, False), (254, True), (253, False), (3, False)])
def test_many_classes_and_no_background(tmp_path, rng, form, n, background):
    "Numbers around 254 and 255, which small vocabularies reserve."
    words = Vocabulary(tuple(f"class {i}" for i in range(n)), background=background)
    values = [*range(len(words.labels)), *reserved_labels(words)]
    labels = rng.choice(values, (18, 23)).astype(np.uint16)
    labels.flat[: len(values)] = values
    results = results_of(tmp_path, words, {"one.png": (labels, ())})
    export_labels(results, tmp_path / "out", form)
    back = import_labels(tmp_path / "out", results.images, form, words)
    assert (back[0].labels == labels).all()


@pytest.mark.promise(64)
def test_coco_reads_instances_with_their_overlaps(results, tmp_path, capsys):
    from pycocotools.coco import COCO

    export_labels(results, tmp_path / "out", "coco")
    coco = COCO(str(tmp_path / "out/annotations/instances_default.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(HARD)
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == list(results.files)
    for number, item in enumerate(results, 1):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        things = [i for i in item.instances if i.label]
        assert len(found) == len(things)
        for a, b in zip(found, things):
            assert (coco.annToMask(a).astype(bool) == b.mask).all() and a["category_id"] == b.label
            assert a["score"] == b.score and a["area"] == b.mask.sum()
    capsys.readouterr()
    back = import_labels(tmp_path / "out", results.images, "coco")
    for item, other in zip(results, back):
        pairs = list(zip([i for i in item.instances if i.label], other.instances, strict=True))
        assert all((a.mask == b.mask).all() and a.label == b.label and a.score == b.score for a, b in pairs)


@pytest.mark.promise(64)
def test_coco_polygons_are_drawn_by_coco(results, tmp_path):
    from pycocotools.coco import COCO

    export_labels(results, tmp_path / "out", "coco")
    path = tmp_path / "out/annotations/instances_default.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    for a, segmentation in zip(
        facts["annotations"], ([[2.0, 1.0, 9.5, 2.0, 6.0, 8.0]], {"size": [10, 16], "counts": [5, 7, 148]})
    ):
        a["segmentation"] = segmentation
    path.write_text(json.dumps(facts), encoding="utf-8")
    coco, back = COCO(str(path)), read_instances(path, results.images)
    for a, b in zip(facts["annotations"][:2], back[0].instances):
        assert (coco.annToMask(coco.anns[a["id"]]).astype(bool) == b.mask).all() and b.mask.any()


@pytest.mark.promise(64)
def test_panoptic_files_keep_the_published_rules(results, tmp_path):
    "id = R + 256 G + 256^2 B; 0 is void; every number has one segment, every segment has pixels, areas and boxes fit."
    export_labels(results, tmp_path / "out", "coco-panoptic")
    facts = json.loads((tmp_path / "out/annotations/panoptic_default.json").read_text(encoding="utf-8"))
    categories = {c["id"]: c for c in facts["categories"]}
    assert all({"id", "name", "isthing", "color"} <= set(c) for c in categories.values())
    for a, image in zip(facts["annotations"], facts["images"], strict=True):
        png = np.asarray(Image.open(tmp_path / "out/annotations/panoptic_default" / a["file_name"]), np.uint32)
        ids = png[..., 0] + 256 * png[..., 1] + 256**2 * png[..., 2]
        assert ids.shape == (image["height"], image["width"]) and a["image_id"] == image["id"]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in a["segments_info"]}
        for s in a["segments_info"]:
            x0, y0, x1, y1 = mask_box(ids == s["id"])
            assert s["category_id"] in categories and s["area"] == (ids == s["id"]).sum()
            assert s["bbox"] == [x0, y0, x1 - x0, y1 - y0]


@pytest.mark.promise(64)
@given(mask=MASKS)
def test_label_studio_decodes_ours_and_we_decode_its(mask):
    brush = pytest.importorskip("label_studio_converter.brush", reason="NOT TESTED: label-studio-converter is missing")
    assert (brush.decode_rle(_brush_rle(mask)).reshape(*mask.shape, 4) == 255 * mask[..., None]).all()
    theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
    assert (brush_mask(theirs, mask.shape, "") == mask).all()


@pytest.mark.promise(64)
def test_label_studio_long_runs_and_soft_edges(rng):
    brush = pytest.importorskip("label_studio_converter.brush", reason="NOT TESTED: label-studio-converter is missing")
    large = np.zeros((300, 250), bool)
    large[40:250, 3:249] = True  # runs of 65536 values and more
    large[299, 249] = True
    assert (brush.decode_rle(_brush_rle(large)).reshape(300, 250, 4)[..., 3] > 0).tolist() == large.tolist()
    assert (brush_mask(_brush_rle(large), large.shape, "") == large).all()
    pixels = rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    assert (brush_mask(brush.encode_rle(pixels.ravel()), (9, 7), "") == (pixels[..., 3] > 127)).all()


@pytest.mark.promise(64)
def test_label_studio_finds_its_layers(results, tmp_path):
    "The tasks as Label Studio's converter takes them."
    brush = pytest.importorskip("label_studio_converter.brush", reason="NOT TESTED: label-studio-converter is missing")
    export_labels(results, tmp_path / "out", "label-studio", kind="annotations")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    for task, item in zip(tasks, results, strict=True):
        flat = [{**r, **r["value"]} for r in task["annotations"][0]["result"]]
        layers, wanted = brush.decode_from_annotation("tag", flat), segments(item, (0,))
        assert [(m > 0).tolist() for m in layers.values()] == [s.mask.tolist() for s in wanted]
    assert "%2C%20two" in tasks[0]["data"]["image"] and tasks[0]["data"]["file"] == "a b/one, two.png"


@pytest.mark.promise(64)
@given(mask=MASKS)
def test_cvat_decodes_ours_and_we_decode_its(mask):
    cvat = pytest.importorskip("cvat_sdk.masks", reason="NOT TESTED: cvat-sdk is missing")
    if not mask.any():
        return
    height, width = mask.shape
    runs, (x, y, w, h) = _box_runs(mask)
    assert [*runs, x, y, x + w - 1, y + h - 1] == cvat.encode_mask(mask)
    back = cvat.decode_mask([*runs, x, y, x + w - 1, y + h - 1], image_width=width, image_height=height)
    assert (back == mask).all() and (_runs_mask(runs, (x, y, w, h), mask.shape, "") == mask).all()


@pytest.mark.promise(64)
@pytest.mark.parametrize("change", ["polygon", "box", "layer"])
def test_cvat_shapes_of_people(results, tmp_path, change):
    "What is drawn in CVAT besides masks, in the order of its layers."
    export_labels(results, tmp_path / "out", "cvat")
    text = zipfile.ZipFile(tmp_path / "out/annotations.zip").read("annotations.xml").decode()
    shapes = {
        "polygon": '<polygon label="猫" points="1.0,1.0;5.0,1.0;5.0,4.0;1.0,4.0" z_order="9"/>',
        "box": '<box label="猫" xtl="1.0" ytl="1.0" xbr="5.0" ybr="4.0" z_order="9"/>',
        "layer": '<mask label="猫" rle="0, 12" left="1" top="1" width="4" height="3" z_order="9"/>',
    }
    at = text.index("<mask")
    (tmp_path / "annotations.xml").write_text(text[:at] + shapes[change] + text[at:], encoding="utf-8")
    back = import_labels(tmp_path / "annotations.xml", results.images, "cvat", results.vocabulary)[0].labels
    wanted = results[0].labels.copy()
    wanted[1:4, 1:5] = results.vocabulary.index("猫")
    assert (back == wanted).all()


@pytest.mark.parametrize("form", ["label-studio", "cvat", "voc"])
def test_each_doubtful_region_is_a_mask_of_its_own(tmp_path, form):
    "One click renames it, and the label map has one value for all of them."
    one, two = np.zeros((2, 8, 12), bool)
    one[1:5, 1:6], two[3:7, 4:11] = True, True
    labels = np.where(one | two, 254, 0).astype(np.uint16)
    results = results_of(
        tmp_path, Vocabulary(("cat", "dog")), {"one.png": (labels, (Instance(one, 1, 0.5), Instance(two, 2, 0.5)))}
    )
    export_labels(results, tmp_path / "out", form)
    if form == "label-studio":
        (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
        found = [r["value"]["brushlabels"][0] for r in task["predictions"][0]["result"]]
    elif form == "cvat":
        text = zipfile.ZipFile(tmp_path / "out/annotations.zip").read("annotations.xml").decode()
        found = re.findall(r'<mask label="(\w+)"', text)
    else:
        numbers = np.unique(np.asarray(Image.open(tmp_path / "out/SegmentationObject/one.png")))
        found = ["__unknown__"] * (len(numbers) - 1)
    assert found == ["__unknown__"] * 2
    back = import_labels(tmp_path / "out", results.images, form, results.vocabulary)
    assert (back[0].labels == labels).all()


@pytest.mark.promise(64)
@given(mask=MASKS)
def test_polygons_through_corners_are_the_mask(mask):
    from matplotlib.path import Path as Outline

    found, loss = _polygons(mask)
    assert loss == 0 and (_fill(found, mask.shape) == mask).all()
    y, x = np.indices(mask.shape) + 0.5
    centres, inside = np.stack([x, y], -1).reshape(-1, 2), np.zeros(mask.shape, bool)
    for ring in (ring for part in found for ring in part):
        inside ^= Outline([*ring, ring[0]], closed=True).contains_points(centres).reshape(mask.shape)
    assert (inside == mask).all(), "matplotlib finds the same pixels inside"


def test_what_fewer_corners_lose_is_said(tmp_path):
    disc = np.hypot(*(np.indices((80, 80)) - 39.5)) < 33
    counts, losses = zip(
        *((sum(map(len, found[0])), loss) for found, loss in (_polygons(disc, t) for t in (0, 0.5, 1, 3)))
    )
    assert losses[0] == 0 <= losses[1] < losses[2] < losses[3] < 0.1 and counts[0] > counts[1] > counts[2] > counts[3]
    results = results_of(tmp_path, Vocabulary(("disc",)), {"one.png": (disc.astype(np.uint16), ())})
    lost = export_labels(results, tmp_path / "out", "polygons", tolerance=1.0)
    (feature,) = json.loads((tmp_path / "out/polygons.json").read_text())["features"]
    rings = [np.array(ring)[:-1] for ring in feature["geometry"]["coordinates"]]
    assert lost == pytest.approx(feature["properties"]["loss"], abs=1e-6) == pytest.approx(losses[2], abs=1e-6)
    assert (_fill([rings], disc.shape) != disc).sum() / disc.sum() == pytest.approx(lost, abs=1e-6)


def test_back_as_ground_truth_and_as_references(results, tmp_path):
    with new_folder(tmp_path / "truth") as folder:
        write_benchmark(results, folder)
    truth = FolderBenchmark(tmp_path / "truth")
    truth.check()
    assert truth.vocabulary.labels == results.vocabulary.labels
    by_name = {key: labels for _, labels, key in (truth[i] for i in range(len(truth)))}
    for item in results:
        found = by_name[item.name.replace("/", "__")]
        assert (found == np.where(item.labels == 254, 255, item.labels)).all()
    with new_folder(tmp_path / "references") as folder:
        counts = write_references(results, folder)
    found = photographs_in(tmp_path / "references", results.vocabulary)
    assert {name: len(photos) for name, photos in found.items()} == counts and set(counts) == set(HARD)
    for name, photos in found.items():
        for photo in photos:
            item = next(i for i in results if i.name.replace("/", "__") == photo.path.stem)
            assert ((np.asarray(Image.open(photo.mask)) > 0) == (item.labels == results.vocabulary.index(name))).all()


def test_a_lying_image_is_handed_on_upright(tmp_path):
    "Label maps are of the image as it is seen."
    words, labels = Vocabulary(("cat",)), np.zeros((12, 8), np.uint16)
    labels[:6] = 1
    pixels = np.zeros((12, 8, 3), np.uint8)
    pixels[:6] = 250
    lying = Image.fromarray(np.rot90(pixels).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    results = results_of(tmp_path, words, {f"{i}.png": (labels, ()) for i in range(6)})
    for file in results.files:
        lying.save(results.images / file, exif=exif)
    (tmp_path / "set").mkdir()
    export_dataset(results, tmp_path / "set", "transformers", 0.4)
    for path in (tmp_path / "set").rglob("images/*"):
        image = Image.open(path)
        assert image.size == (8, 12) and image.getexif().get(0x0112, 1) == 1
        assert (np.asarray(image)[..., 0] > 99).tolist() == (labels == 1).tolist()


def test_the_parts_of_a_data_set_do_not_move(results):
    names = [f"photo {i}" for i in range(400)]
    first = _split_by_hash(names, 0.25)
    assert _split_by_hash(names + ["more"], 0.25)[:400] == first and 70 < first.count("validation") < 130
    assert _split_by_hash(names[::-1], 0.25) == first[::-1] and _split_by_hash(names, 0.25, seed=1) != first


@pytest.mark.parametrize("background", [True, False])
def test_a_data_set_has_what_its_readers_ask_for(tmp_path, rng, background):
    words = Vocabulary(('cat "a"', "dog: b"), background=background)
    labels = rng.choice([0, 1, 255, 254], (10, 14)).astype(np.uint16)
    results = results_of(tmp_path, words, {f"{i}.png": (labels, ()) for i in range(8)})
    (tmp_path / "t").mkdir()
    train, validation, _ = export_dataset(results, tmp_path / "t", "transformers", 0.4)
    rows = [json.loads(r) for r in (tmp_path / "t/train/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == train and train + validation == 8
    value = np.asarray(Image.open(tmp_path / "t/train" / rows[0]["label_file_name"]))
    assert (value == np.where(labels > 250, 255, labels)).all()
    names = json.loads((tmp_path / "t/id2label.json").read_text(encoding="utf-8"))
    assert [names[str(i)] for i in range(len(names))] == list(words.labels)


@pytest.mark.promise(65)
@pytest.mark.parametrize(
    "names, form, said",
    [
        (("a:b",), "voc", "no colon and does not begin with #: got 'a:b'"),
        (("#a",), "cvat-masks", "does not begin with #: got '#a'"),
        (("__unknown__",), "coco", "rename the class"),
    ],
)
def test_names_that_a_format_cannot_hold(tmp_path, names, form, said):
    with pytest.raises(ValueError, match=said):
        labels = np.ones((4, 4), np.uint16)
        export_labels(results_of(tmp_path, Vocabulary(names), {"one.png": (labels, ())}), tmp_path / "out", form)
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".out*"))


@pytest.mark.promise(65)
@pytest.mark.parametrize("name", ["a|b", '"a"', "#a", "a;b", "[a"])
def test_names_that_a_line_cannot_hold(name):
    with pytest.raises(ValueError, match="a line of names.txt"):
        _names_text(Vocabulary((name, "other")))


@pytest.mark.promise(65)
@pytest.mark.parametrize("form", WRITERS)
def test_an_export_that_fails_leaves_nothing(results, tmp_path, form):
    def broken(i):
        if i == 2:
            raise OSError(28, "No space left on device")
        return results[i]

    with pytest.raises(OSError, match="No space"):
        export_labels(Annotations(results.vocabulary, results.images, results.files, broken), tmp_path / "out", form)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


@pytest.mark.promise(65)
def test_what_is_there_is_not_overwritten(results, tmp_path):
    (tmp_path / "out").mkdir()
    export_labels(results, tmp_path / "out", "coco")
    before = (tmp_path / "out/annotations/instances_default.json").read_bytes()
    with pytest.raises(ValueError, match="new or an empty folder: .*out is not"):
        export_labels(results, tmp_path / "out", "coco")
    assert (tmp_path / "out/annotations/instances_default.json").read_bytes() == before


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    for form in WRITERS:
        for place in ("one", "two"):
            export_labels(results, tmp_path / place / form, form)
        files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one" / form).rglob("*") if p.is_file())
        assert files and all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


HALF = lambda data: data[: len(data) // 2]
FAULTS = [
    ("coco", "instances*.json", HALF, "a file of COCO has images"),
    ("coco", "instances*.json", lambda b: b"[]", "a file of COCO has images"),
    (
        "coco",
        "instances*.json",
        lambda b: b.replace(b'"size": [10, 16]', b'"size": [9, 16]'),
        "run lengths of its image",
    ),
    (
        "coco-panoptic",
        "panoptic*.json",
        lambda b: b.replace(b'"segments_info": [{"id": 1,', b'"segments_info": [{"id": 77,'),
        "each segment has a category",
    ),
    ("voc", "labelmap.txt", lambda b: b.replace("猫:".encode(), b"x:y:"), "name:r,g,b:parts:actions"),
    ("voc", "labelmap.txt", lambda b: b.replace(b":128,0,0:", b":1,2,3:"), "colours of masks stand in labelmap.txt"),
    ("cvat-masks", "masks.zip", HALF, "a folder or a zip archive"),
    ("label-studio", "tasks.json", HALF, "a list of tasks"),
    (
        "label-studio",
        "tasks.json",
        lambda b: b.replace(b"brushlabels", b"polygonlabels"),
        "brush masks here|list of tasks",
    ),
    (
        "label-studio",
        "tasks.json",
        lambda b: b.replace(b'"original_width": 16', b'"original_width": 15'),
        "fill 10 x 15",
    ),
    ("cvat", "annotations.zip", HALF, "none that can be read"),
]


@pytest.mark.promise(65)
@pytest.mark.parametrize("form, pattern, change, said", FAULTS)
def test_damaged_exports_are_named(results, tmp_path, form, pattern, change, said):
    export_labels(results, tmp_path / "out", form)
    path = next((tmp_path / "out").rglob(pattern))
    path.write_bytes(change(before := path.read_bytes()))
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=said):
        list(import_labels(tmp_path / "out", results.images, form, results.vocabulary))


@pytest.mark.promise(17)
def test_no_entry_of_an_archive_leaves_its_folder(results, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    with pytest.raises(ValueError, match="stay inside"):
        import_labels(tmp_path / "bad.zip", results.images, "cvat-masks")
    assert not list(tmp_path.parent.rglob("escaped.txt"))
    (tmp_path / "bad.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    with pytest.raises(ValueError, match="document type"):
        import_labels(tmp_path / "bad.xml", results.images, "cvat")


def bomb(path, entries, size, name="annotations.xml"):
    "An archive of zeros; each entry holds `size` bytes."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for i in range(entries):
            with archive.open(name if i == 0 else f"{i}-{name}", "w", force_zip64=True) as out:
                for start in range(0, size, 1 << 24):
                    out.write(bytes(min(1 << 24, size - start)))
    return path


def announce(path, true, said):
    "Change the size that the archive's directory gives for its only entry."
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    assert int.from_bytes(data[directory + 24 : directory + 28], "little") == true
    data[directory + 24 : directory + 28] = said.to_bytes(4, "little")
    path.write_bytes(data)


def peak_of(call):
    "Bytes that a refused call held at most, and what it said."
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as refused:
            call()
        return tracemalloc.get_traced_memory()[1], str(refused.value)
    finally:
        tracemalloc.stop()


@pytest.mark.promise(17)
def test_a_bomb_is_refused_before_anything_is_unpacked(results, tmp_path):
    one = bomb(tmp_path / "one.zip", 1, _MOST_READ + 1)
    peak, said = peak_of(lambda: import_labels(one, results.images, "cvat"))
    assert one.stat().st_size < 300_000 and peak < 4 << 20
    assert "at most 256 MiB" in said and "one.zip" in said and "\n" not in said
    many = bomb(tmp_path / "many.zip", 16, 1 << 20, "labelmap.txt")
    with zipfile.ZipFile(many) as archive:  # the same sixteen entries, each announcing a gigabyte
        sizes = [e.file_size for e in archive.infolist()]
    data = many.read_bytes()
    with open(many, "wb") as out:
        out.write(data.replace((1 << 20).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little")))
    assert sizes == [1 << 20] * 16 and 16 << 30 > _MOST_UNPACKED
    (tmp_path / "into").mkdir()
    peak, said = peak_of(lambda: unpack_archive(many, tmp_path / "into"))
    assert "at most 4 GiB" in said and "16 GiB" in said and peak < 4 << 20
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.promise(17)
def test_a_bomb_whose_directory_lies_fills_neither_memory_nor_disk(results, tmp_path):
    path, true = bomb(tmp_path / "lies.zip", 1, 200 << 20), 200 << 20
    announce(path, true, 1000)
    (tmp_path / "into").mkdir()
    for call in (lambda: unpack_archive(path, tmp_path / "into"), lambda: read_entry(path, "annotations.xml")):
        peak, said = peak_of(call)
        assert peak < 16 << 20 and "lies.zip" in said
    assert sum(p.stat().st_size for p in (tmp_path / "into").iterdir()) <= 1000


@pytest.mark.promise(17)
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_cannot_be_counted_is_refused(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", method) as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::")
    with pytest.raises(ValueError, match="stored or deflated"):
        unpack_archive(tmp_path / "odd.zip", tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.promise(17)
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "a/../../../out.txt"])
def test_paths_that_leave_the_folder_unpack_nothing(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "x")
        archive.writestr(name, "x")
    with pytest.raises(ValueError, match="stay inside"):
        unpack_archive(tmp_path / "bad.zip", tmp_path / "deep/into")
    assert not (tmp_path / "deep").exists() and not list(tmp_path.rglob("*.txt"))


@given(st.binary(max_size=40), st.integers(0, 500), st.integers(0, 255))
def test_a_damaged_archive_is_refused_or_read_as_it_was(tmp_path_factory, held, at, value):
    place = tmp_path_factory.mktemp("damaged")
    path = bomb(place / "a.zip", 1, 5000, "a.txt")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.txt", held)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)
    try:
        folder = unpack_archive(path, place / "into")
    except ValueError as refused:
        assert "a.zip" in str(refused) or "stay inside" in str(refused)
    else:
        assert all(p.read_bytes() in (bytes(5000), held) for p in folder.rglob("*") if p.is_file())


@pytest.mark.promise(65)
def test_missing_images_and_names_are_listed(results, tmp_path):
    export_labels(results, tmp_path / "out", "coco")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has none for a b/one, two.png, .*zwei"):
        import_labels(tmp_path / "out", tmp_path / "empty", "coco")
    with pytest.raises(ValueError, match="is no class of the vocabulary background, cat: in"):
        import_labels(tmp_path / "out", results.images, "coco", Vocabulary(("cat",)))
    with pytest.raises(ValueError, match="several for"):
        Image.new("RGB", (16, 10)).save(results.images / "a b/one, two.jpg")
        read_results(tmp_path / "results", results.images)


def test_commands(results, tmp_path, capsys):
    "From results through a tool to ground truth that `rim evaluate` reads."
    words, images = ["--images", str(results.images)], str(results.images)
    assert main(["export", str(tmp_path / "results"), "--to", "cvat", *words, "--out", str(tmp_path / "cvat")]) == 0
    assert "4 images for cvat" in capsys.readouterr().out
    command = ["import", str(tmp_path / "cvat"), "--from", "cvat", "--images", images, "--out", str(tmp_path / "truth")]
    assert main(command) == 0 and len(FolderBenchmark(tmp_path / "truth")) == 4
    assert main(command) == 2 and "new or an empty folder" in capsys.readouterr().err
    command = ["export", str(tmp_path / "results"), "--to", "polygons", "--tolerance", "2", *words]
    assert main([*command, "--out", str(tmp_path / "polygons")]) == 0 and "%" in capsys.readouterr().out
    assert main([*command, "--tolerance", "-1", "--out", str(tmp_path / "p")]) == 2
    assert "0 or more: got -1" in capsys.readouterr().err
    command = ["export-dataset", str(tmp_path / "results"), *words, "--layout", "ultralytics", "--validation", "0.5"]
    assert main([*command, "--out", str(tmp_path / "set")]) == 0 and "of validation" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "nothing"), "--to", "voc", *words, "--out", str(tmp_path / "x")]) == 2
    assert "no folder of results" in capsys.readouterr().err
