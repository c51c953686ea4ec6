"""Benchmarks: what is wrong with the files is named before a model runs."""

import re
from dataclasses import replace
import numpy as np, pytest
from PIL import Image
from hypothesis import given, strategies as st
from layouts import make, real, save
from rim.base.images import image_size
from rim.measure.datasets import get_benchmark
from rim.measure.folders import Benchmark, FolderBenchmark, ToyboxBenchmark, read_names
from rim.measure.published import PublishedBenchmark
from rim.measure.sources import SOURCES, background_words, names_file, _number_labels, translate
from rim.measure.evaluation import evaluate
from rim.base.settings import Settings


@pytest.fixture
def folder(tmp_path, rng):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    for i, size in enumerate([(8, 10), (5, 5), (7, 3)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
        labels = rng.integers(0, 3, size, dtype=np.uint8)
        labels[0, 0] = 255
        Image.fromarray(labels).save(tmp_path / "labels" / f"{i}.png")
    return tmp_path


def test_folder(folder):
    bench = FolderBenchmark(folder)
    bench.check()
    image, truth, key = bench[0]
    assert (
        isinstance(bench, Benchmark)
        and len(bench) == 3
        and key == "0"
        and image.shape == (8, 10, 3)
        and truth[0, 0] == 255
    )
    assert bench.vocabulary.labels == ("background", "cat", "dog") and len(FolderBenchmark(folder, 2)) == 2


def test_names_without_background(folder):
    (folder / "names.txt").write_text("cat\ndog")
    assert read_names(folder / "names.txt").labels == ("cat", "dog")


def test_palette_values_not_colours(folder):
    labels = Image.fromarray(np.full((8, 10), 2, np.uint8))
    labels.putpalette([7, 7, 7] * 256)
    labels.save(folder / "labels" / "0.png")
    assert (FolderBenchmark(folder)[0][1] == 2).all()


@pytest.mark.parametrize(
    "damage, error, match",
    [
        (lambda f: (f / "labels/1.png").unlink(), FileNotFoundError, "1.png has no partner in labels"),
        (lambda f: (f / "images/1.png").unlink(), FileNotFoundError, "1.png has no partner in images"),
        (lambda f: (f / "names.txt").unlink(), FileNotFoundError, "names.txt"),
        (lambda f: Image.new("L", (9, 9)).save(f / "labels/1.png"), ValueError, "one size.*1.png"),
        (
            lambda f: Image.fromarray(np.full((5, 5), 7, np.uint8)).save(f / "labels/1.png"),
            ValueError,
            r"0..2.*1.png contains \[7\]",
        ),
        (lambda f: Image.new("RGB", (5, 5)).save(f / "labels/1.png"), ValueError, "palette or grey"),
        (lambda f: (f / "labels/1.png").write_bytes(b""), ValueError, "1.png"),
        (lambda f: Image.new("RGB", (5, 5)).save(f / "images/1.jpg"), ValueError, "one file per name"),
        (
            lambda f: [(f / p).unlink() for p in ("labels/1.png", "images/2.png")],
            FileNotFoundError,
            "1.png has no partner in labels/.*2.png has no partner in images/",
        ),
        (
            lambda f: (f / "labels/1.png").write_bytes((f / "labels/1.png").read_bytes()[:-20]),
            ValueError,
            "decode completely.*1.png",
        ),
    ],
)
@pytest.mark.promise(8)
def test_faults_are_named(folder, damage, error, match):
    damage(folder)
    with pytest.raises(error, match=match):
        FolderBenchmark(folder).check()


def test_toybox():
    bench = ToyboxBenchmark(3)
    assert isinstance(bench, Benchmark) and len(bench) == 3 and len(bench.vocabulary.labels) >= 17
    image, truth, key = bench[1]
    again = ToyboxBenchmark(9)[1]
    assert (
        (image == again[0]).all()
        and (truth == again[1]).all()
        and key == again[2]
        and truth.max() < len(bench.vocabulary.labels)
    )
    assert bench[1][2] != ToyboxBenchmark(3, "validation")[1][2]


def test_by_name(folder):
    settings = Settings.from_profile("toybox")
    assert len(get_benchmark("toybox", settings)) == 240 and len(get_benchmark(str(folder), settings)) == 3
    with pytest.raises(FileNotFoundError, match="nowhere"):
        get_benchmark("nowhere", settings)


def test_a_toybox_of_some_classes():
    bench = get_benchmark("toybox:64:boat,fish", Settings.from_profile("toybox", benchmark_images=5))
    assert (
        len(bench) == 5
        and bench.vocabulary.labels == ("background", "boat", "fish")
        and bench[0][0].shape == (64, 64, 3)
        and bench.name == "toybox-test-64-boat-fish"
    )
    assert {label for i in range(5) for label in np.unique(bench[i][1])} == {0, 1, 2}
    assert 1 <= len(bench.background_words) <= 5 and set(bench.background_words) <= set(bench.world.backgrounds) == set(
        get_benchmark("toybox", Settings.from_profile("toybox")).background_words
    )
    for wrong, match in (("toybox:9", "32 to 256"), ("toybox:big", "32 to 256"), ("toybox:64:boat,ship", "got 'ship'")):
        with pytest.raises(ValueError, match=match):
            get_benchmark(wrong, Settings.from_profile("toybox"))


# ---- the published benchmarks

THINGS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's own category ids
STUFF = list(range(92, 183))
CLASSES = {
    "voc21": 21,
    "voc20": 20,
    "context60": 60,
    "context59": 59,
    "coco-object": 81,
    "coco-stuff": 171,
    "cityscapes": 19,
    "ade20k": 150,
}
IMAGES = {
    "voc21": 1449,
    "voc20": 1449,
    "context60": 5105,
    "context59": 5105,
    "coco-object": 5000,
    "coco-stuff": 5000,
    "cityscapes": 500,
    "ade20k": 2000,
}
CITY_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # of the 19 train ids


def expected(name, raw, value):
    "The label of a value as the benchmarks' own documents have it; None where the value can't occur."
    if name == "coco-object" and raw:
        return THINGS.index(value + 1) + 1 if value + 1 in THINGS else 0 if value + 1 in STUFF or value == 255 else None
    if name == "coco-stuff" and raw:
        return 255 if value == 255 else (THINGS + STUFF).index(value + 1) if value + 1 in THINGS + STUFF else None
    if name == "cityscapes" and raw:
        return CITY_IDS.index(value) if value in CITY_IDS else 255 if value < 34 or value == 255 else None
    if name in ("voc20", "context59", "ade20k"):
        if value == 0 or value == 255 and name != "ade20k":
            return 255
        return value - 1 if value <= CLASSES[name] else None
    return value if value < CLASSES[name] else 255 if value == 255 and name != "coco-object" else None


VARIANTS = [(name, raw) for name, source in SOURCES.items() for raw in (False, True) if source.raw or not raw]


@pytest.mark.parametrize("name, raw", VARIANTS)
def test_every_value_is_read_as_the_benchmark_means_it(name, raw):
    source = SOURCES[name]
    table = source.raw_values if raw else source.values
    assert [expected(name, raw, v) for v in range(256)] == [None if t < 0 else t for t in table.tolist()]
    assert source.images == IMAGES[name]


@given(
    st.integers(1, 250),
    st.integers(0, 5),
    st.sets(st.integers(0, 255)),
    st.lists(st.integers(0, 400), min_size=1, max_size=30),
)
def test_translate_is_a_lookup_that_refuses(classes, first, ignored, values):
    table, array = _number_labels(classes, first, tuple(ignored)), np.array([values], np.uint16)
    meaning = lambda v: v - first if first <= v < first + classes else 255 if v in ignored else None
    wrong = sorted({v for v in values if meaning(v) is None})
    if not wrong:
        assert translate(array, table, "here").tolist() == [[meaning(v) for v in values]]
    else:
        with pytest.raises(ValueError, match=re.escape(f"here contains {wrong[:5]}")):
            translate(array, table, "here")


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("which", ["plain", "engineered"])
def test_names_have_one_entry_per_class(name, which):
    vocabulary = read_names(names_file(SOURCES[name].names, which), SOURCES[name].background)
    assert len(vocabulary) == CLASSES[name] and vocabulary.background == (name in ("voc21", "context60", "coco-object"))
    assert which == "engineered" or not vocabulary.synonyms


def test_names_agree_with_one_another():
    plain = {
        name: read_names(names_file(name), False).names for name in ("voc", "context", "coco-object", "coco-stuff")
    }
    assert plain["coco-stuff"][:80] == plain["coco-object"] and list(plain["context"]) == sorted(plain["context"])
    assert set(plain["voc"]) - set(plain["context"]) == {"diningtable"}  # Context says table
    assert (
        len(background_words("voc21")) == 26
        and len(background_words("coco-object")) == 17
        and set(background_words("coco-object")) < set(background_words("voc21"))
    )
    assert background_words("voc20") == () and not set(background_words("voc21")) & set(plain["voc"])


@pytest.mark.parametrize("name, raw", VARIANTS)
def test_generated_layouts(tmp_path, name, raw):
    values = make(name, tmp_path, raw=raw)
    bench = PublishedBenchmark(name, tmp_path)
    bench.check()
    assert isinstance(bench, Benchmark) and len(bench) == 3 and bench.keys == list(values)
    for (image, truth, key), (wanted, stored) in zip((bench[i] for i in range(3)), values.items()):
        assert key == wanted.split("/")[-1] and image.shape == (*stored.shape, 3) and truth.dtype == np.uint8
        assert (truth == np.vectorize(lambda v: expected(name, raw, v))(stored)).all()
    assert PublishedBenchmark(name, tmp_path, 2).keys == bench.keys[:2]


@pytest.mark.parametrize("name, home", [(name, home) for name, source in SOURCES.items() for home in source.homes])
def test_the_root_may_be_above(tmp_path, name, home):
    make(name, tmp_path / home, 1)
    for root in (tmp_path, tmp_path / home):
        assert PublishedBenchmark(name, root).home.resolve() == (tmp_path / home).resolve()


@pytest.mark.parametrize("name", ["coco-object", "coco-stuff"])
@pytest.mark.parametrize("picture", [0, 1])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("raw", [False, True])
def test_all_of_cocos_layouts(tmp_path, name, picture, label, raw):
    make(name, tmp_path, 2, raw, picture, label)
    bench = PublishedBenchmark(name, tmp_path)
    bench.check()
    assert len(bench) == 2


def test_converted_maps_win_over_published_ones_image_by_image(tmp_path):
    make("coco-stuff", tmp_path, raw=True)
    bench = PublishedBenchmark("coco-stuff", tmp_path)
    key = bench.keys[1]
    save(np.full(bench[1][1].shape, 170, np.uint8), tmp_path / f"stuffthingmaps/val2017/{key}_labelTrainIds.png")
    before = [bench[i][1] for i in (0, 2)]
    again = PublishedBenchmark("coco-stuff", tmp_path)
    assert (
        (again[1][1] == 170).all()
        and all((again[i][1] == b).all() for i, b in zip((0, 2), before))
        and again.keys == bench.keys
    )
    assert (
        len(PublishedBenchmark("coco-object", tmp_path)) == 3
    )  # the other benchmark's maps lie beside and are no items


def test_two_copies_below_a_root_are_refused_and_a_link_is_one(tmp_path):
    make("voc21", tmp_path / "VOC2012")
    (tmp_path / "voc").symlink_to(tmp_path / "VOC2012", target_is_directory=True)
    assert len(PublishedBenchmark("voc21", tmp_path)) == 3
    make("voc21", tmp_path / "VOCdevkit/VOC2012")
    with pytest.raises(ValueError, match="one place.*voc.*VOCdevkit/VOC2012"):
        PublishedBenchmark("voc21", tmp_path)


def test_missing_folders_are_named(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(FileNotFoundError, match="SegmentationClassContext.*rim data prepare context"):
        PublishedBenchmark("context60", tmp_path)
    with pytest.raises(FileNotFoundError, match="val2017 or images/val2017 and stuffthingmaps/val2017 or"):
        PublishedBenchmark("coco-object", tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        PublishedBenchmark("voc21", tmp_path / "nowhere")


@pytest.mark.promise(8)
@pytest.mark.parametrize("name", SOURCES)
def test_missing_files_are_named_all_at_once(tmp_path, name):
    values, source = make(name, tmp_path, 4), SOURCES[name]
    keys = list(values)
    gone = [
        tmp_path / source.pictures[0].format(keys[0]),
        tmp_path / source.pictures[0].format(keys[2]),
        tmp_path / source.labels[0].format(keys[1]),
    ]
    for path in gone:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="lacks 3 files") as error:
        PublishedBenchmark(name, tmp_path).check()
    stems = [str(p.parent / p.name.split("_instance")[0].split("_label")[0].split(".")[0]) for p in gone]
    assert all(stem in str(error.value) for stem in stems)


def test_many_missing_files_are_counted(tmp_path):
    make("voc21", tmp_path, 1)
    (tmp_path / SOURCES["voc21"].split).write_text("\n".join(f"2007_{i:06}" for i in range(1, 41)))
    with pytest.raises(FileNotFoundError, match="lacks 78 files.*and 58 more"):
        PublishedBenchmark("voc21", tmp_path).check()
    PublishedBenchmark("voc21", tmp_path, 1).check()  # the first is whole


DAMAGES = [
    (lambda image, label, size: save(np.zeros((5, 99), np.uint8), label), "one size.*{image}.*{label}"),
    (
        lambda image, label, size: save(np.full(size, 254, np.uint8), label),
        r"label values must be among.*{label} contains \[254\]",
    ),
    (lambda image, label, size: save(np.full(size, 300, np.uint16), label), r"label values.*{label} contains \[300\]"),
    (lambda image, label, size: Image.new("RGB", size[::-1]).save(label), "palette or grey.*{label}"),
    (lambda image, label, size: label.write_bytes(label.read_bytes()[:-30]), "must decode completely.*{label}"),
    (lambda image, label, size: label.write_bytes(b""), "{label}"),
    (lambda image, label, size: image.write_bytes(b"no picture"), "{image}"),
]


@pytest.mark.promise(8)
@pytest.mark.parametrize("name", ["voc20", "coco-object", "cityscapes"])
@pytest.mark.parametrize(
    "damage, match", DAMAGES, ids=["size", "range", "16 bit", "colours", "truncated", "empty", "no image"]
)
def test_damaged_files_are_named_before_a_model_runs(tmp_path, name, damage, match):
    make(name, tmp_path, 2)
    bench = PublishedBenchmark(name, tmp_path)
    image, label = bench.files(bench.keys[1])
    damage(image, label, bench[1][1].shape)
    with pytest.raises(ValueError, match=match.format(image=re.escape(str(image)), label=re.escape(str(label)))):
        bench.check()


def test_a_half_decoded_picture_is_found_by_the_thorough_look(tmp_path):
    make("ade20k", tmp_path, 1)
    bench = PublishedBenchmark("ade20k", tmp_path)
    image, _ = bench.files(bench.keys[0])
    save(np.random.default_rng(0).integers(0, 255, (*bench[0][1].shape, 3), dtype=np.uint8), image)
    image.write_bytes(image.read_bytes()[:-200])
    assert bench.problem(bench.keys[0]) == "" and "decode completely" in bench.problem(bench.keys[0], decode=True)


def test_a_turned_photograph_is_compared_upright(tmp_path):
    make("voc21", tmp_path, 1)
    bench = PublishedBenchmark("voc21", tmp_path)
    image, label = bench.files(bench.keys[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(image, exif=exif)
    save(np.zeros((20, 10), np.uint8), label)
    bench.check()
    assert bench[0][0].shape == (20, 10, 3) and image_size(image) == (20, 10)


@pytest.mark.parametrize(
    "text, named",
    [("2007_000001 1", "'?1"), ("2007_000001\n2007_000001", "2007_000001"), ("../../2007_000001", r"\.\./")],
)
def test_a_list_names_each_image_once_and_nothing_else(tmp_path, text, named):
    make("voc21", tmp_path, 1)
    (tmp_path / SOURCES["voc21"].split).write_text(text)
    with pytest.raises(ValueError, match=f"name each once.*{named}"):
        PublishedBenchmark("voc21", tmp_path)


def test_without_a_list_a_small_copy_is_whole_and_a_large_one_needs_it(tmp_path, monkeypatch):
    make("voc21", tmp_path, 3)
    (tmp_path / SOURCES["voc21"].split).unlink()
    save(
        np.zeros((4, 4, 3), np.uint8), tmp_path / "JPEGImages/2007_000099.jpg"
    )  # VOC has more photographs than label maps
    assert PublishedBenchmark("voc21", tmp_path).keys == ["2007_000001", "2007_000002", "2007_000003"]
    monkeypatch.setitem(SOURCES, "voc21", replace(SOURCES["voc21"], images=2))
    with pytest.raises(FileNotFoundError, match="val.txt.*3 label maps, of which 2"):
        PublishedBenchmark("voc21", tmp_path)


def test_the_settings_choose_benchmark_names_and_number(tmp_path, monkeypatch, folder):
    make("coco-object", tmp_path / "coco")
    settings = Settings.from_profile("paper", data_dir=str(tmp_path), benchmark_images=2)
    bench = get_benchmark(settings.benchmark, settings)
    assert bench.name == "coco-object" and len(bench) == 2 and bench.vocabulary.names[62] == "tv"
    monkeypatch.setenv("RIM_DATA", str(tmp_path))
    engineered = get_benchmark("coco-object", Settings.from_profile("paper", names="engineered")).vocabulary
    assert (
        engineered.names[62] == "television"
        and engineered.synonyms["television"] == ("computer monitor",)
        and len(engineered) == 81
    )
    with pytest.raises(ValueError, match="plain, engineered"):
        Settings.from_profile("paper", names="pretty")
    with pytest.raises(ValueError, match="one list of names"):
        get_benchmark("toybox", Settings.from_profile("toybox", names="engineered"))
    with pytest.raises(FileNotFoundError, match="names-engineered.txt"):
        get_benchmark(str(folder), Settings.from_profile("toybox", names="engineered"))
    monkeypatch.delenv("RIM_DATA")
    with pytest.raises(FileNotFoundError, match="data_dir"):
        get_benchmark("voc21", Settings.from_profile("paper"))


def test_a_folders_names_may_have_synonyms_and_remarks(folder):
    (folder / "names-engineered.txt").write_text("# mine\nBackground\ncat|kitten\ndog\n")
    words = FolderBenchmark(folder, names="engineered").vocabulary
    assert words.labels == ("background", "cat", "dog") and words.synonyms == {"cat": ("kitten",)}


# ---- real pairs

REAL = {"voc21": 8, "voc20": 8, "context60": 2, "context59": 2, "coco-object": 4, "coco-stuff": 4, "ade20k": 2}


@pytest.mark.parametrize("name, n", REAL.items())
def test_real_pairs(name, n):
    bench = PublishedBenchmark(name, real())
    bench.check()
    assert len(bench) == n
    for image, truth, key in (bench[i] for i in range(n)):
        assert image.shape[:2] == truth.shape and truth.size > 10_000


@pytest.mark.parametrize(
    "name, key, seen",
    [
        ("voc21", "2008_008376", {"background", "bird"}),
        ("voc20", "2008_008376", {"bird"}),
        ("voc21", "2008_008246", {"background", "car", "motorbike", "person"}),
        ("context60", "2008_008376", {"bird", "grass", "ground", "water", "wood"}),
        ("context59", "2009_000637", {"grass", "ground", "motorbike", "person", "sky"}),
        ("coco-object", "000000001818", {"background", "zebra"}),
        ("coco-stuff", "000000001818", {"zebra", "grass"}),
        ("coco-object", "000000001503", {"background", "tv", "laptop", "mouse", "keyboard"}),
        ("ade20k", "ADE_val_00000001", {"wall", "building", "sky", "tree", "road", "grass", "plant"}),
    ],
)
def test_real_labels_have_the_right_names(name, key, seen):
    bench = PublishedBenchmark(name, real())
    truth = bench[bench.keys.index(key)][1]
    assert {bench.vocabulary.labels[label] for label in np.unique(truth) if label != 255} == seen


def test_two_benchmarks_agree_on_one_photograph():
    voc, context = (PublishedBenchmark(name, real()) for name in ("voc21", "context60"))
    birds = [bench[bench.keys.index("2008_008376")][1] == bench.vocabulary.index("bird") for bench in (voc, context)]
    assert (birds[0] & birds[1]).sum() / (birds[0] | birds[1]).sum() > 0.8  # drawn by two people
    objects, stuff = (PublishedBenchmark(name, real()) for name in ("coco-object", "coco-stuff"))
    for i in range(4):
        a, b = objects[i][1].astype(int), stuff[i][1].astype(int)
        assert (np.where(b < 80, b + 1, 0) == a).all()


def test_evaluation_of_real_pairs_at_their_own_size():
    bench = PublishedBenchmark("voc21", real(), 2)
    truths = {bench[i][0].tobytes(): bench[i][1] for i in range(2)}
    right = lambda image: np.where(
        truths[image.tobytes()] == 255, 3, truths[image.tobytes()]
    )  # wrong where nothing is scored
    report = evaluate(
        {"right": right, "nothing": lambda image: np.zeros(image.shape[:2], int)},
        bench,
        Settings.from_profile("toybox"),
        progress=False,
    )
    scored = sum(int((t != 255).sum()) for t in truths.values())
    assert report.interval("right")[1] == 1 and report.confusions["right"].sum() == scored < sum(
        t.size for t in truths.values()
    )
    assert {label for label, v in report.per_class("nothing").items() if v == v} == {"background", "dog", "person"}
    for wrong, match in (
        (lambda image: np.full(image.shape[:2], 21), "0..20, got 21"),
        (lambda image: np.zeros((64, 64), int), "image's size"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate({"wrong": wrong}, bench, Settings.from_profile("toybox"), progress=False)


def relabelled(folder, change):
    "All label maps of the folder, changed."
    for file in (folder / "labels").iterdir():
        Image.fromarray(change(np.array(Image.open(file)))).save(file)
    return folder


@pytest.mark.promise(34)
@pytest.mark.parametrize("names", ["background\nboat\n", "background\nboat\ntree\n"])
def test_masks_of_0_and_255_are_no_label_maps(folder, names):
    (folder / "names.txt").write_text(names)
    relabelled(folder, lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    with pytest.raises(ValueError, match="only 0 and 255.*'boat' is 1"):
        FolderBenchmark(folder).check()
    assert len(FolderBenchmark(folder).problems()) == 1
    (folder / "names.txt").write_text("water\nboat\n")
    FolderBenchmark(folder).check()  # 0 is a class then


@pytest.mark.promise(34)
def test_a_benchmark_of_which_nothing_is_scored_is_refused(folder):
    with pytest.raises(ValueError, match="needs pixels that are scored"):
        FolderBenchmark(relabelled(folder, lambda labels: np.full_like(labels, 255))).check()


@pytest.mark.promise(34)
def test_a_published_benchmark_of_which_nothing_is_scored_is_refused(tmp_path):
    make("ade20k", tmp_path, n=2)
    for file in tmp_path.rglob("*.png"):
        if "annotations" in str(file):
            save(np.zeros_like(np.array(Image.open(file))), file)
    with pytest.raises(ValueError, match="needs pixels that are scored"):
        PublishedBenchmark("ade20k", tmp_path).check()


@pytest.mark.promise(34)
def test_label_255_is_a_class_like_any_other_where_there_are_more(folder):
    (folder / "names.txt").write_text("".join(f"thing {i}\n" for i in range(300)))
    wide = lambda labels: np.where(labels == 255, 65535, np.where(labels == 1, 255, 299)).astype(np.uint16)
    bench = FolderBenchmark(relabelled(folder, wide))
    bench.check()
    knows = lambda image: next(t for i, t, _ in (bench[k] for k in range(3)) if np.array_equal(i, image))
    valid = lambda image: np.where(knows(image) == 65535, 0, knows(image))
    report = evaluate({"m": valid}, bench, Settings.from_profile("toybox", bootstrap=10), progress=False)
    assert report.per_class("m")["thing 255"] == 1 and report.confusions["m"].sum() == 80 + 25 + 21 - 3
    assert "<img" in bench._repr_html_()
    relabelled(folder, lambda labels: np.full_like(labels, 300))
    with pytest.raises(ValueError, match="0..299 or be 65535"):
        bench.check()


@pytest.mark.promise(34)
def test_composed_and_decomposed_file_names_are_partners(folder):
    (folder / "images/0.png").rename(folder / "images/caf\u00e9.png")
    (folder / "labels/0.png").rename(folder / "labels/cafe\u0301.png")
    assert {FolderBenchmark(folder)[i][2] for i in range(3)} == {"1", "2", "caf\u00e9"}


@pytest.mark.parametrize("value", [-1, 70_000])
def test_what_can_not_be_a_label_is_named(folder, value):
    (folder / "labels/0.png").unlink()
    Image.fromarray(np.full((8, 10), value, np.int32)).save(folder / "labels/0.tif")
    with pytest.raises(ValueError, match=f"0..65535: .*0.tif contains {value}"):
        FolderBenchmark(folder).check()
