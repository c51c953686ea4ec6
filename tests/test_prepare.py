"""Preparing and checking benchmarks: right numbers, nothing half written, whatever is missing or wrong said in one
message."""

import json, os, shutil, signal, subprocess, sys
import numpy as np, pytest
from hypothesis import given, settings as how, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle
from conftest import ROOT
from layouts import make, real, save
from rim.apps import cli
from rim.base.images import read_labels
from rim.measure.folders import FolderBenchmark, read_names
from rim.measure.published import PublishedBenchmark
from rim.measure.sources import CITYSCAPES, CITYSCAPES_NAMES, SOURCES, names_file
from rim.measure.prepare import (
    _CONTEXT_IDS,
    _PREPARATIONS,
    check_benchmark,
    _detail_labels,
    _polygon_labels,
    prepare,
    _run_mask,
)
from rim.base.settings import Settings


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def truths(name, root):
    return [
        t
        for _, t, _ in (b for bench in [PublishedBenchmark(name, root)] for b in (bench[i] for i in range(len(bench))))
    ]


def packed(mask):
    "Compressed run lengths of a mask, as JSON has them."
    run = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in run["size"]], "counts": run["counts"].decode()}


def details(maps, image_ids=None, phase="val"):
    "The detail annotations of some 60-class label maps (file stem -> map), some training image between them."
    images, masks = (
        [dict(image_id=99999, file_name="2007_000999.jpg", phase="train", height=2, width=2)],
        [dict(image_id=99999, category_id=2, segmentation=packed(np.ones((2, 2))))],
    )
    for i, (stem, labels) in enumerate(maps.items()):
        images.append(
            dict(image_id=i, file_name=f"{stem}.jpg", phase=phase, height=labels.shape[0], width=labels.shape[1])
        )
        masks += [
            dict(image_id=i, category_id=_CONTEXT_IDS[label], segmentation=packed(labels == label))
            for label in np.unique(labels)
            if label
        ]
    return dict(images=images[::-1], annos_segmentation=masks, categories=[], parts=[])


def context_folder(root, maps):
    home = root / "VOCdevkit/VOC2010"
    for stem, labels in maps.items():
        save(np.zeros((*labels.shape, 3), np.uint8), home / f"JPEGImages/{stem}.jpg")
    (home / "trainval_merged.json").write_text(json.dumps(details(maps)))
    return home


def random_maps(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return {f"2008_{i:06}": rng.integers(0, 60, rng.integers(8, 24, 2)).astype(np.uint8) for i in range(1, n + 1)}


# ---- what is written


@pytest.mark.parametrize(
    "name, label",
    [(name, label) for name in ("coco-object", "coco-stuff", "cityscapes") for label in range(len(SOURCES[name].raw))],
)
def test_conversion_changes_no_label(tmp_path, name, label):
    make(name, tmp_path, 3, raw=True, label=label)
    before, there = truths(name, tmp_path), files(tmp_path)
    done = prepare(name, tmp_path)
    assert (done.written, done.kept) == (3, 0) and all((a == b).all() for a, b in zip(before, truths(name, tmp_path)))
    made = files(tmp_path)
    assert len(made) == 9 and there.items() <= made.items()  # nothing that was there is touched
    bench = PublishedBenchmark(name, tmp_path)
    for key in bench.keys:
        path = bench.files(key)[1]
        assert (
            path == tmp_path / SOURCES[name].labels[label].format(key)
            and (read_labels(path) == bench.truth(path, key)).all()
        )
    assert (prepare(name, tmp_path).written, prepare(name, tmp_path).kept) == (0, 3) and files(tmp_path) == made


def test_both_of_cocos_benchmarks_share_a_folder(tmp_path):
    make("coco-stuff", tmp_path, 3, raw=True)
    alone = truths("coco-object", tmp_path)
    for name in ("coco-stuff", "coco-object", "coco-stuff"):
        prepare(name, tmp_path)
    assert all((a == b).all() for a, b in zip(alone, truths("coco-object", tmp_path))) and len(files(tmp_path)) == 12


def test_context(tmp_path):
    home = context_folder(tmp_path, maps := random_maps())
    done = prepare("context", tmp_path)
    assert done.written == 3 and (home / "ImageSets/SegmentationContext/val.txt").read_text().split() == sorted(maps)
    assert all((a == b).all() for a, b in zip(truths("context60", tmp_path), maps.values()))
    assert all(
        (a == np.where(b == 0, 255, b.astype(int) - 1)).all()
        for a, b in zip(truths("context59", tmp_path), maps.values())
    )
    assert prepare("context", home).written == 0


@pytest.mark.parametrize("where", ["VOCdevkit/VOC2010", "VOCdevkit", "."])
def test_the_annotations_may_lie_beside_or_above(tmp_path, where):
    home = context_folder(tmp_path, random_maps())
    shutil.move(home / "trainval_merged.json", tmp_path / where / "moved")
    (tmp_path / where / "moved").rename(tmp_path / where / "trainval_merged.json")
    assert prepare("context", tmp_path).written == 3


@how(max_examples=40)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 59)))
def test_run_lengths_give_the_map_back(labels):
    image, *_ = details({"x": labels})["images"]
    masks = [m for m in details({"x": labels})["annos_segmentation"] if m["image_id"] == 0]
    assert (_detail_labels(image, masks) == labels).all()


@how(max_examples=60)
@given(
    arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))
    | st.integers(0, 10**6).map(lambda n: np.arange(300 * 200).reshape(300, 200) % (1 + n) < n // 2)
)
def test_run_lengths_are_cocos(mask):
    assert (_run_mask(packed(mask)) == mask).all() and (rle.decode(packed(mask)) == mask).all()


@how(max_examples=100)
@given(st.binary(max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_any_text_is_a_mask_or_refused(data, h, w):
    try:
        assert _run_mask(dict(size=[h, w], counts=data.decode("latin-1"))).shape == (h, w)
    except ValueError as e:
        assert "run lengths" in str(e)


def test_a_later_mask_lies_on_top():
    image = dict(height=2, width=2, file_name="x.jpg")
    whole, corner = packed(np.ones((2, 2))), packed(np.array([[1, 0], [0, 0]]))
    assert _detail_labels(
        image, [dict(category_id=2, segmentation=whole), dict(category_id=458, segmentation=corner)]
    ).tolist() == [[59, 1], [1, 1]]


def test_contexts_identifiers():
    assert len(_CONTEXT_IDS) == 60 and list(_CONTEXT_IDS) == sorted(set(_CONTEXT_IDS)) and _CONTEXT_IDS[0] == 0
    names = ("background", *read_names(names_file("context"), False).names)
    assert {
        2: "aeroplane",
        25: "bird",
        258: "motorbike",
        284: "person",
        397: "table",
        416: "train",
        458: "wood",
    }.items() <= dict(zip(_CONTEXT_IDS, names)).items()


# ---- Cityscapes from polygons


def street(*objects, size=(10, 20)):
    return dict(
        imgHeight=size[0], imgWidth=size[1], objects=[dict(label=l, polygon=p, **more) for l, p, more in objects]
    )


BOX, ALL = [[2, 2], [7, 2], [7, 5], [2, 5]], [[0, 0], [19, 0], [19, 9], [0, 9]]


def test_polygons(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps(
            street(
                ("sky", ALL, {}),
                ("cargroup", BOX, {}),
                ("license plate", BOX, {}),
                ("road", ALL, dict(deleted=1)),
                ("tunnel", [[0, 0], [0, 0], [1, 0]], {}),
            )
        )
    )
    labels = _polygon_labels(tmp_path / "a.json")
    assert (
        labels.shape == (10, 20)
        and (labels[2:6, 2:8] == 13).all()
        and (labels == 13).sum() == 24
        and labels[0, 0] == 255
        and (labels == 10).sum() == 200 - 24 - 2
    )


@pytest.mark.parametrize(
    "text, named",
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps(street(("spaceship", BOX, {}))), "spaceship"),
        (json.dumps(dict(imgHeight=3)), "imgWidth"),
        (json.dumps(street(("sky", [[1, 2, 3], [4, 5, 6], [7, 8, 9]], {}))), "a.json"),
        (json.dumps(street((["sky"], BOX, {}))), "a.json"),
    ],
)
def test_what_are_no_polygons_is_refused(tmp_path, text, named):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json.*{named}|{named}.*a.json|{named}"):
        _polygon_labels(tmp_path / "a.json")


def test_cityscapes_from_polygons_where_there_are_no_maps(tmp_path):
    ids = make("cityscapes", tmp_path, 2, raw=True)
    first, second = (tmp_path / SOURCES["cityscapes"].raw[0].format(key) for key in ids)
    size = read_labels(second).shape
    second.unlink()
    polygons = second.with_name(second.name.replace("labelIds.png", "polygons.json"))
    polygons.write_text(json.dumps(street(("road", [[0, 0], [99, 0], [99, 99], [0, 99]], {}), size=size)))
    assert prepare("cityscapes", tmp_path).written == 2
    assert (truths("cityscapes", tmp_path)[1] == 0).all() and (
        truths("cityscapes", tmp_path)[0] == CITYSCAPES[read_labels(first)]
    ).all()


def test_cityscapes_names_and_train_identifiers():
    assert len(CITYSCAPES_NAMES) == 34 and sorted(CITYSCAPES[:34][CITYSCAPES[:34] < 255].tolist()) == list(range(19))


# ---- faults


@pytest.mark.parametrize("name", ["coco-object", "coco-stuff", "cityscapes"])
def test_missing_files_are_listed_in_one_message_before_anything_is_written(tmp_path, name):
    ids, source = make(name, tmp_path, 30, raw=True), SOURCES[name]
    gone = [tmp_path / source.pictures[0].format(key) for key in list(ids)[:2]] + [
        tmp_path / source.raw[0].format(key) for key in list(ids)[2:27]
    ]
    for path in gone:
        path.unlink()
    there = files(tmp_path)
    with pytest.raises(FileNotFoundError, match="27 files are missing") as error:
        prepare(name, tmp_path)
    stems = [str(p.parent / p.stem.removesuffix("_labelIds")) for p in gone]
    assert all(stem in str(error.value) for stem in stems) and files(tmp_path) == there


def test_missing_pictures_and_annotations_of_context(tmp_path):
    home = context_folder(tmp_path, random_maps())
    for stem in ("2008_000001", "2008_000003"):
        (home / f"JPEGImages/{stem}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files are missing:\n.*2008_000001.jpg\n.*2008_000003.jpg"):
        prepare("context", tmp_path)
    assert not (home / "SegmentationClassContext").exists()
    (home / "trainval_merged.json").unlink()
    with pytest.raises(FileNotFoundError, match="trainval_merged.json"):
        prepare("context", tmp_path)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda d: d["annos_segmentation"][1].update(category_id=5), "one of Context's 59: 2008_000001.jpg has 5"),
        (lambda d: d["annos_segmentation"][1]["segmentation"].update(size=[1, 1]), "image's size.*2008_000001.jpg"),
        (lambda d: d["annos_segmentation"][1]["segmentation"].update(counts="0"), "fill a mask.*2008_000001.jpg"),
        (lambda d: d["annos_segmentation"][1]["segmentation"].update(counts=""), "run lengths.*2008_000001.jpg"),
        (lambda d: d["annos_segmentation"][1]["segmentation"].update(counts="0\u00e9"), "run lengths.*2008_000001.jpg"),
        (lambda d: d["annos_segmentation"][1]["segmentation"].pop("counts"), "detail annotations"),
        (lambda d: d["annos_segmentation"][1].pop("category_id"), "detail annotations"),
        (lambda d: d["images"][0].update(file_name="../../../2008_000001.jpg"), r"\.\./"),
        (lambda d: d["images"][0].update(height="many"), "detail annotations"),
        (lambda d: [i.update(phase="train") for i in d["images"]], "none"),
        (lambda d: d.pop("images"), "images and annos_segmentation"),
    ],
)
def test_bad_annotations_are_named(tmp_path, change, match):
    home = context_folder(tmp_path, random_maps())
    facts = details(random_maps())
    change(facts)
    (home / "trainval_merged.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=match):
        prepare("context", tmp_path)
    assert not (home / "ImageSets").exists()


def test_one_damaged_map_is_named_and_the_others_are_made(tmp_path):
    ids = make("coco-stuff", tmp_path, 3, raw=True)
    bad = [tmp_path / SOURCES["coco-stuff"].raw[0].format(key) for key in ids]
    bad[0].write_bytes(bad[0].read_bytes()[:-20])
    save(np.full((3, 3), 11, np.uint8), bad[1])
    with pytest.raises(ValueError, match=r"2 of 3 label maps") as error:
        prepare("coco-stuff", tmp_path)
    assert str(bad[0]) in str(error.value) and f"{bad[1]} contains [11]" in str(error.value)
    assert [p.name for p in tmp_path.rglob("*_labelTrainIds.png")] == [f"{list(ids)[2]}_labelTrainIds.png"]


def test_a_map_of_another_size_is_named(tmp_path):
    ids = make("coco-object", tmp_path, 1, raw=True)
    save(np.zeros((5, 5), np.uint8), tmp_path / SOURCES["coco-object"].raw[0].format(*ids))
    with pytest.raises(ValueError, match="one size"):
        prepare("coco-object", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[:-20]),
        lambda p: save(np.zeros((9, 9), np.uint8), p),
        lambda p: p.unlink(),
        lambda p: p.write_bytes(bytes([*p.read_bytes()[:45], p.read_bytes()[45] ^ 1, *p.read_bytes()[46:]])),
    ],
    ids=["empty", "truncated", "other", "gone", "bit"],
)
@pytest.mark.promise(3)
def test_what_is_done_but_damaged_is_made_again(tmp_path, damage):
    make("coco-object", tmp_path, 3, raw=True)
    prepare("coco-object", tmp_path)
    made = files(tmp_path)
    damage(next(tmp_path.rglob("*_instanceTrainIds.png")))
    assert prepare("coco-object", tmp_path).written == 1 and files(tmp_path) == made


KILLED = """
import os, signal, sys
from rim.base import store
from rim.measure.prepare import prepare
replace, done = os.replace, []
def replace_or_die(a, b):
    if len(done) == 4: os.kill(os.getpid(), signal.SIGKILL)
    done.append(b); replace(a, b)
store.os.replace = replace_or_die
prepare(sys.argv[1], sys.argv[2])
"""


@pytest.mark.promise(1)
@pytest.mark.parametrize("name", ["coco-stuff", "context"])
def test_killed_half_way_and_started_again(tmp_path, name):
    for part in ("killed", "whole"):
        if name == "context":
            context_folder(tmp_path / part, random_maps(9))
        else:
            make(name, tmp_path / part, 9, raw=True)
    end = subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path / "killed")], cwd=ROOT, capture_output=True)
    assert end.returncode == -signal.SIGKILL, end.stderr
    again = prepare(name, tmp_path / "killed")
    assert (again.written, again.kept) == (5, 4) and prepare(name, tmp_path / "whole").written == 9
    left = {path: data for path, data in files(tmp_path / "killed").items() if not path.endswith(".tmp")}
    assert left == files(tmp_path / "whole")
    assert len(PublishedBenchmark("context60" if name == "context" else name, tmp_path / "killed")) == 9


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    make("coco-object", tmp_path, 1, raw=True)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    there = files(tmp_path)
    with pytest.raises(OSError, match="cannot write .*_instanceTrainIds.png: No space left"):
        prepare("coco-object", tmp_path)
    assert files(tmp_path) == there


def test_only_some_benchmarks_are_prepared(tmp_path):
    with pytest.raises(ValueError, match="context, coco-object, coco-stuff, cityscapes.*'voc21'"):
        prepare("voc21", tmp_path)


# ---- checking


def complete(monkeypatch, name, n):
    from dataclasses import replace

    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], images=n))


@pytest.mark.parametrize("name", SOURCES)
def test_a_whole_benchmark_passes(tmp_path, monkeypatch, name):
    make(name, tmp_path)
    settings = Settings.from_profile("toybox", data_dir=str(tmp_path), benchmark_images=1)
    assert (
        check_benchmark(name, settings)[1]
        == [f"{name} has {SOURCES[name].images} images, and 3 are in {tmp_path.resolve()}"]
        or tmp_path.resolve() != tmp_path
    )
    complete(monkeypatch, name, 3)
    assert check_benchmark(name, settings) == (3, [])


def test_everything_that_is_off_is_listed(tmp_path, monkeypatch):
    make("ade20k", tmp_path, 6)
    complete(monkeypatch, "ade20k", 7)
    bench = PublishedBenchmark("ade20k", tmp_path)
    (images, labels), keys = zip(*(bench.files(key) for key in bench.keys)), bench.keys
    images[0].unlink()
    save(np.full(bench[1][1].shape, 151, np.uint8), labels[1])
    save(np.zeros((3, 3), np.uint8), labels[2])
    save(np.random.default_rng(0).integers(0, 255, (*bench[3][1].shape, 3), dtype=np.uint8), images[3])
    images[3].write_bytes(images[3].read_bytes()[:-100])
    labels[4].write_bytes(labels[4].read_bytes()[:-20])
    found, problems = check_benchmark("ade20k", Settings.from_profile("toybox", data_dir=str(tmp_path)))
    assert found == 6 and len(problems) == 7 - 1
    for word in (
        "7 images, and 6 are",
        f"{images[0]} is missing",
        f"{labels[1]} contains [151]",
        f"{labels[2]} is (3, 3)",
        f"completely: {images[3]}",
        f"completely: {labels[4]}",
    ):
        assert any(word in p for p in problems), (word, problems)


def test_a_label_map_without_image_is_off_too(tmp_path, monkeypatch):
    make("cityscapes", tmp_path, 3)
    complete(monkeypatch, "cityscapes", 3)
    save(np.zeros((3, 3), np.uint8), tmp_path / SOURCES["cityscapes"].labels[0].format("ulm/ulm_000077_000019"))
    _, problems = check_benchmark("cityscapes", Settings.from_profile("toybox", data_dir=str(tmp_path)))
    assert len(problems) == 2 and "leftImg8bit.png is missing" in problems[1]


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n")
    for i in range(3):
        save(np.zeros((4, 5, 3), np.uint8), tmp_path / f"images/{i}.png")
        save(np.full((4, 5), i, np.uint8), tmp_path / f"labels/{i}.png")
    found, problems = check_benchmark(str(tmp_path), Settings.from_profile("toybox"))
    assert found == 3 and [p.split()[-1] for p in problems] == ["[1]", "[2]"]
    assert check_benchmark("toybox", Settings.from_profile("toybox")) == (240, [])


# ---- the command


def run(capsys, *words):
    code = cli.main([str(w) for w in words])
    return code, *capsys.readouterr()


def test_command(tmp_path, capsys, monkeypatch):
    make("coco-object", tmp_path / "coco", 2, raw=True)
    for written in (2, 0):
        code, out, err = run(capsys, "data", "prepare", "coco-object", "--root", tmp_path)
        assert code == 0 and f"{written} written" in out and err == ""  # no bar where nobody looks
    code, out, err = run(capsys, "data", "check", "coco-object", "--root", tmp_path)
    assert code == 1 and "5000 images, and 2" in out and "1 problem" in out
    monkeypatch.setenv("RIM_DATA", str(tmp_path))
    complete(monkeypatch, "coco-object", 2)
    assert run(capsys, "data", "check", "coco-object")[0] == 0


@pytest.mark.parametrize(
    "words, named",
    [
        (["prepare", "voc21", "--root", "."], "'voc21'"),
        (["prepare", "context"], "--root"),
        (["check", "voc21"], "data_dir"),
        (["check", "voc12", "--root", "."], "'voc12'"),
        (["check", "voc21", "--root", "nowhere"], "nowhere"),
        (["prepare", "coco-stuff", "--root", "."], "stuffthingmaps/val2017"),
    ],
)
def test_refusals(tmp_path, capsys, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "data", *words)
    assert code == 2 and named in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["data"], ["data", "prepare"], ["data", "check"]])
def test_help_names_what_there_is(capsys, words):
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    if words[-1] == "prepare":
        assert all(name in out for name in _PREPARATIONS)
    if words[-1] == "check":
        assert all(name in out for name in SOURCES)


# ---- real pairs


@pytest.mark.parametrize("name", ["coco-object", "coco-stuff"])
def test_real_maps_of_coco(tmp_path, name):
    shutil.copytree(real() / "coco_stuff", tmp_path / "coco")
    before = truths(name, tmp_path)
    assert prepare(name, tmp_path).written == 4 and all((a == b).all() for a, b in zip(before, truths(name, tmp_path)))


def test_real_labels_of_context_through_the_annotations(tmp_path):
    maps = {p.stem: read_labels(p) for p in sorted((real() / "context/SegmentationClassContext").glob("*.png"))}
    home = tmp_path / "VOC2010"
    shutil.copytree(real() / "context/JPEGImages", home / "JPEGImages")
    (home / "trainval_merged.json").write_text(json.dumps(details(maps)))
    assert prepare("context", tmp_path).written == len(maps) == 2
    assert all(
        (read_labels(home / f"SegmentationClassContext/{stem}.png") == labels).all() for stem, labels in maps.items()
    )
