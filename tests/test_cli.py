"""Command line: answers at once, refuses in one sentence with exit code 2, and survives damaged input and Ctrl-C."""

import subprocess, sys
import numpy as np
import pytest
from PIL import Image
from tiny import MODELS
from rim.apps import arguments, cli, cli_files, cli_segment


def run(capsys, *words):
    "(exit code, standard output, standard error)"
    try:
        code = cli.main([str(w) for w in words])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


@pytest.fixture
def photo(tmp_path, tiny_image):
    path = tmp_path / "photo.png"
    Image.fromarray(tiny_image).save(path)
    return path


@pytest.fixture
def fake_rim(monkeypatch):
    "A segmenter that finds the first class in the left half of every image."
    from rim.method import matcher
    from rim.base.images import read_image
    from rim.method.segmentation import Method, Region, Segmentation
    from rim.base.settings import Settings

    class Fake:
        settings, bank = Settings.from_profile("toybox"), None

        def __init__(self, *parts, **named):
            pass

        def __init__(self, settings, bank=None, store=None, keep=False):
            pass

        def method(self, vocabulary):
            return Method(None, key={"method": "left"})

        def segment(self, image, vocabulary):
            pixels = read_image(image)
            labels = np.zeros(pixels.shape[:2], int)
            labels[:, : pixels.shape[1] // 2] = 1
            region = Region(labels == 1, (0, 0, pixels.shape[1] // 2, pixels.shape[0]), 1, vocabulary.labels[1], 0.5)
            return Segmentation(pixels, labels, vocabulary, (region,))

    monkeypatch.setattr(matcher, "SEGMENTERS", dict.fromkeys(("match", "rim"), Fake))
    monkeypatch.setattr(cli_segment, "_announce_bank", lambda *args: None)
    return Fake


def test_the_command_runs_as_a_module_by_its_path_with_and_without_the_room():
    for module in ("rim.cli", "rim.apps.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("rim "), done.stderr[-300:]


def test_help_loads_nothing_heavy():
    code = (
        "import sys, rim.apps.cli; rim.apps.cli._parser(); print([m for m in ('torch', 'numpy', 'PIL', "
        "'matplotlib', 'diffusers', 'transformers', 'papermill') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["segment"],
        ["references"],
        ["references", "build"],
        ["references", "show"],
        ["evaluate"],
        ["reproduce"],
        ["doctor"],
        ["store"],
        ["store", "list"],
        ["store", "verify"],
        ["store", "prune"],
        ["toybox"],
        ["toybox", "scene"],
        ["toybox", "train"],
    ],
)
def test_every_command_explains_itself(capsys, words):
    code, out, _ = run(capsys, *words, "--help")
    assert code == 0 and "usage: rim" in out


REFUSALS = [
    (["segment", "nowhere.png", "--classes", "boat", "--out", "OUT"], "nowhere.png"),
    (["segment", "TEXT", "--classes", "boat", "--out", "OUT"], "text.png"),
    (["segment", "PHOTO", "TWIN", "--classes", "boat", "--out", "OUT"], "photo.jpg would both have photo.png"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "FOLDER"], "overwrite the image"),
    (["segment", "TWIN", "--classes", "boat", "--out", "FOLDER"], "lie beside the image"),
    (["segment", "NOTHING*.png", "--classes", "boat", "--out", "OUT"], "NOTHING*.png"),
    (["segment", "PHOTO", "--out", "OUT"], "--classes"),
    (["segment", "PHOTO", "--classes", "nowhere.txt", "--out", "OUT"], "nowhere.txt"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--longest", "-1"], "-1"),
    (["segment", "PHOTO", "--bank", "nowhere.safetensors", "--out", "OUT"], "nowhere.safetensors"),
    (
        ["segment", "PHOTO", "--bank", "TEXT", "--classes", "boat", "--out", "OUT", "--method", "trident"],
        "--bank goes with",
    ),
    (["segment", "PHOTO", "--classes", "", "--out", "OUT"], "class name"),
    (["segment", "PHOTO", "--classes", "boat, Boat", "--out", "OUT"], "'Boat'"),
    (["segment", "PHOTO", "--classes", "boat, , tree", "--out", "OUT"], "blank"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "TEXT"], "--out must be a folder"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--profile", "toyboks"], "toyboks"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--set", "agent=3"], "'agents'"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--set", "agents=many"], "many"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--set", "agents"], "key=value"),
    (["segment", "PHOTO", "--classes", "boat"], "--out"),
    (["segment", "PHOTO", "--classes", "boat", "--out", "OUT", "--fast"], "--fast"),
    (["references", "build", "--classes", "boat", "--out", "FOLDER"], "--out must be a file"),
    (["references", "build", "--out", "OUT"], "--photographs"),
    (["references", "build", "--photographs", "nowhere", "--out", "OUT"], "nowhere"),
    (["references", "show", "nowhere.safetensors"], "nowhere.safetensors"),
    (["references", "show", "TEXT"], "text.png"),
    (["evaluate", "nowhere", "--out", "OUT"], "nowhere"),
    (["evaluate", "toybox", "--root", "TEXT", "--out", "OUT"], "--root must be a folder"),
    (["evaluate", "toybox", "--method", "magic", "--out", "OUT"], "'magic'"),
    (["evaluate", "toybox", "--shard", "5/4", "--out", "OUT"], "'5/4'"),
    (["evaluate", "toybox", "--limit", "-1", "--out", "OUT"], "-1"),
    (["evaluate", "toybox", "--limit", "2", "--classes", "boat, tree", "--out", "OUT"], "got 2 names"),
    (["evaluate", "toybox", "--bank", "nowhere.safetensors", "--out", "OUT"], "no reference bank at nowhere"),
    (["evaluate", "toybox", "--bank", "TEXT", "--out", "OUT"], "as ReferenceBank.save wrote it"),
    (["evaluate", "toybox", "--bank", "toybox-match", "--out", "OUT"], "goes with the encoder that made it"),
    (["evaluate", "toybox", "--bank", "toybox", "--method", "trident", "--out", "OUT"], "got 'trident'"),
    (["reproduce", "table99"], "table99"),
    (["reproduce", "table2", "--set", "agnets=3"], "'agents'"),
    (["toybox", "scene", "--seed", "-1", "--out", "OUT"], "-1"),
    (["toybox", "scene", "--seed", "x", "--out", "OUT"], "'x'"),
    (["toybox", "scene", "--seed", "7", "--size", "4", "--out", "OUT"], "4"),
    (["toybox", "train", "cat"], "cat"),
    (["dance"], "dance"),
    ([], "COMMAND"),
]


@pytest.mark.parametrize("words, named", REFUSALS, ids=[" ".join(w) for w, _ in REFUSALS])
def test_bad_input_is_one_sentence_and_exit_2(capsys, tmp_path, photo, words, named):
    (tmp_path / "text.png").write_text("no image")
    Image.open(photo).save(tmp_path / "photo.jpg")
    places = dict(
        PHOTO=photo, TWIN=tmp_path / "photo.jpg", OUT=tmp_path / "out", TEXT=tmp_path / "text.png", FOLDER=tmp_path
    )
    code, out, err = run(capsys, *(places.get(w, w) for w in words))
    assert code == 2 and named in err and err.startswith("rim") and "Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    if words[:2] != ["toybox", "train"]:
        assert len(err.strip().splitlines()) == 1


def test_segment_writes_three_files_per_picture(capsys, tmp_path, photo, fake_rim):
    other = tmp_path / "other.jpg"
    Image.open(photo).save(other)
    code, out, err = run(capsys, "segment", photo, other, "--classes", "boat, tree", "--out", tmp_path / "out")
    assert code == 0 and err == "" and "boat 50%" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{s}{e}" for s in ("photo", "other") for e in (".png", "_overlay.png", ".json")
    )
    labels = Image.open(tmp_path / "out/photo.png")
    assert labels.mode == "P" and set(np.unique(labels)) == {0, 1}


@pytest.mark.promise(15)
def test_a_damaged_picture_is_named_and_the_others_go_on(capsys, tmp_path, photo, fake_rim):
    half = tmp_path / "half.png"
    half.write_bytes(photo.read_bytes()[:-400])
    code, out, err = run(capsys, "segment", half, photo, "--classes", "boat", "--out", tmp_path / "out")
    assert (
        code == 1
        and "half.png" in err
        and "1 of 2 images failed" in err
        and (tmp_path / "out/photo.png").exists()
        and not (tmp_path / "out/half.png").exists()
    )


def test_classes_from_a_file_and_five_thousand_names(tmp_path):
    (tmp_path / "names.txt").write_text("boat\nsofa|couch\n")
    assert arguments.vocabulary_of(str(tmp_path / "names.txt")).names == ("boat", "sofa")
    assert len(arguments.vocabulary_of(", ".join(f"thing {i}" for i in range(5000))).names) == 5000


def test_classes_of_a_benchmark(tmp_path, monkeypatch):
    assert (
        len(arguments.vocabulary_of("voc21").labels) == 21
        and not arguments.vocabulary_of("voc20").background
        and "boat" in arguments.vocabulary_of("toybox").names
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc21").write_text("boat\n")
    assert arguments.vocabulary_of("voc21").names == ("boat",), "a file goes first"
    assert arguments.vocabulary_of("voc21, boat").names == ("voc21", "boat")


def test_a_second_run_finds_its_results(capsys, tmp_path, photo, fake_rim):
    words = ["segment", photo, "--classes", "boat", "--out", tmp_path / "out"]
    assert "boat 50%" in run(capsys, *words)[1]
    before = (tmp_path / "out/photo.json").read_bytes()
    assert "done before" in run(capsys, *words)[1] and (tmp_path / "out/photo.json").read_bytes() == before
    assert "boat 50%" in run(capsys, *words, "--force")[1]
    assert "tree 50%" in run(capsys, *words[:3], "tree", *words[4:])[1], "other words"
    (tmp_path / "out/photo_overlay.png").unlink()
    assert "tree 50%" in run(capsys, *words[:3], "tree", *words[4:])[1], "a file is gone"
    Image.new("RGB", (9, 9)).save(photo)
    assert "tree" in run(capsys, *words[:3], "tree", *words[4:])[1], "another image"


@pytest.mark.promise(35)
def test_files_that_are_passed_over_are_named(capsys, tmp_path, photo, fake_rim):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"?")
    code, _, err = run(capsys, "segment", tmp_path, "--classes", "boat", "--out", tmp_path / "out")
    assert code == 0 and "passed over: 1 of no allowed ending" in err and "IMG_1.HEIC" in err
    code, _, err = run(capsys, "segment", photo, "--classes", "boat", "--out", tmp_path / "out")
    assert code == 0 and err == ""


def test_folders_are_mirrored_and_coco_is_written(capsys, tmp_path, photo, fake_rim):
    for name in ("a", "b/c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "in" / name / "1.png")
    code, out, err = run(
        capsys,
        "segment",
        tmp_path / "in",
        "--recursive",
        "--classes",
        "boat, tree",
        "--out",
        tmp_path / "in/out",
        "--coco",
    )
    assert code == 0 and err == "" and "2 images" in out
    assert sorted(p.relative_to(tmp_path / "in/out").as_posix() for p in (tmp_path / "in/out").rglob("*.json")) == [
        "a/1.json",
        "b/c/1.json",
        "coco.json",
    ]
    assert (
        run(capsys, "segment", tmp_path / "in", "--recursive", "--classes", "boat, tree", "--out", tmp_path / "in/out")[
            1
        ].count("done before")
        == 2
    ), "results are no input"


def test_a_bank_is_announced(capsys, tmp_path, photo):
    from rim.method.bank import ReferenceBank
    from rim.method.tools import Tools
    from rim.method.segmenter import RIM
    from rim.base.settings import Settings
    from rim.base.store import Store
    from rim.method.vocabulary import Vocabulary

    tiny = Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=2,
        denoising_steps=2,
    )
    rim, words = RIM(tiny, store=Store(tmp_path / "store")), Vocabulary.of("boat, tree")
    cli_segment._announce_bank(rim, words)
    assert "generating 4 of 4 reference images for 2 classes" in capsys.readouterr().out
    bank = cli_segment._announce_bank(rim, words)
    assert capsys.readouterr().out == f"bank {bank.digest[:12]}: 2 classes, 4 references (4 from diffusion)\n"
    bank.save(tmp_path / "bank.safetensors")
    code, _, err = run(capsys, "segment", photo, "--bank", tmp_path / "bank.safetensors", "--out", tmp_path / "out")
    assert code == 2 and "the encoder that made it" in err


def test_segment_loads_no_painter_that_it_does_not_need(capsys, tmp_path, photo, monkeypatch):
    from rim.method.segmenter import RIM
    from rim.base.settings import Settings
    from rim.base.store import Store

    tiny = dict(
        **MODELS,
        images_per_class="1",
        denoising_steps="1",
        points_per_side="4",
    )
    RIM(Settings.from_profile("toybox", **tiny), store=Store(tmp_path / "store")).bank_for("boat, tree", progress=False)
    more = [w for key, value in {**tiny, "store": tmp_path / "store"}.items() for w in ("--set", f"{key}={value}")]
    monkeypatch.setitem(sys.modules, "diffusers", None)  # to import it fails from here on
    for method in ("rim", "trident"):
        words = "--classes", "boat, tree", "--method", method, "--out", tmp_path / method
        code, out, err = run(capsys, "segment", photo, *words, *more)
        assert code == 0 and "generating" not in out and ("bank " in out) == (method == "rim"), out + err


def test_photographs_become_a_bank(capsys, tmp_path, photo):
    more = [
        "--set",
        "pretrained=no",
        "--set",
        "sam=tiny:sam",
        "--set",
        "dino=tiny:dino",
        "--set",
        "diffusion=tiny:diffusion",
        "--set",
        "images_per_class=1",
        "--set",
        "denoising_steps=1",
    ]
    for name in ("cat", "couch"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "mine" / name / "1.png")
    (tmp_path / "mine/cat/bad.png").write_bytes(b"")
    code, out, err = run(
        capsys, "references", "build", "--photographs", tmp_path / "mine", "--out", tmp_path / "bank", *more
    )
    assert (
        code == 0
        and "2 photographs of 2 classes" in out
        and "1 of 3 photographs are skipped" in err
        and "bad.png" in err
    )
    code, out, err = run(
        capsys,
        "references",
        "build",
        "--photographs",
        tmp_path / "mine",
        "--classes",
        "cat, sofa|couch, tree",
        "--out",
        tmp_path / "bank",
        *more,
    )
    assert code == 0 and "3 classes, 6 references" in out and "generating 4 of 4" in out
    assert "photographs" in run(capsys, "references", "show", tmp_path / "bank", "--out", tmp_path / "sheet.png")[1]
    code, out, _ = run(capsys, "segment", photo, "--bank", tmp_path / "bank", "--out", tmp_path / "out", *more)
    assert code == 0 and "4 from diffusion, 2 from photographs" in out and (tmp_path / "out/photo.json").exists()


def test_interrupted_is_130(capsys, monkeypatch):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_files, "_doctor", stop)
    code, _, err = run(capsys, "doctor")
    assert code == 130 and "what is finished is kept" in err


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("RIM_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["references", "show", "nowhere.safetensors"])


def test_doctor_names_the_missing_and_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RIM_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code, out, _ = run(capsys, "doctor", "--profile", "paper")
    assert code == 1 and "missing  sam_vit_b_01ec64.pth" in out and "to fetch it" in out
    assert run(capsys, "doctor", "--profile", "rehearsal")[0] == 0


def test_scene_writes_picture_labels_and_names(capsys, tmp_path):
    from rim.toybox.world import World

    code, out, _ = run(capsys, "toybox", "scene", "--seed", 7, "--out", tmp_path / "scene")
    scene, labels = World().scene(7), Image.open(tmp_path / "scene/scene-7-labels.png")
    assert code == 0 and scene.caption in out and labels.mode == "P"
    assert (np.asarray(labels) == scene.labels).all() and (
        np.asarray(Image.open(tmp_path / "scene/scene-7.png")) == scene.image
    ).all()
    assert (tmp_path / "scene/classes.txt").read_text().split("\n")[:-1] == list(World.names)


def test_reproduce_lists(capsys):
    code, out, _ = run(capsys, "reproduce", "--list")
    assert code == 0 and "table2" in out


@pytest.fixture
def bright(monkeypatch):
    "A method by name that needs no weights, and what it was called with."
    from rim.measure import examination
    from rim.method.segmentation import Method

    calls = []

    def predict(image, _):
        calls.append(1)
        return (image.mean(2) > 180).astype(np.uint8)

    monkeypatch.setitem(
        examination._METHODS, "bright", lambda rim, benchmark: Method(predict, key={"method": "bright"})
    )
    return calls


def test_evaluate_writes_its_report_and_is_resumed(capsys, tmp_path, bright):
    words = ["evaluate", "toybox", "--method", "bright", "--limit", 5, "--worst", 2, "--out", tmp_path / "out"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "toybox-test-128, 5 images" in out and len(bright) == 7  # five, and two for the sheet
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert (
        set(files) == {"report.md", "methods.csv", "classes.csv", "images.csv", "worst-bright.png", "worst-bright.pdf"}
        and b"a synthetic benchmark" in files["report.md"]
    )
    assert run(capsys, *words)[0] == 0 and len(bright) == 9
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files, (
        "the same measurement, the same bytes"
    )


def test_shards_leave_their_results_in_the_store(capsys, tmp_path, bright):
    words = ["evaluate", "toybox", "--method", "bright", "--limit", 5, "--worst", 0, "--out", tmp_path / "out"]
    for i in (1, 2):
        code, out, _ = run(capsys, *words, "--shard", f"{i}/2")
        assert code == 0 and f"shard {i} of 2" in out and not (tmp_path / "out").exists()
    assert run(capsys, *words)[0] == 0 and len(bright) == 5 and (tmp_path / "out/report.md").exists()
    code, out, _ = run(capsys, *words, "--shard", "6/6")
    assert code == 0 and "no image" in out


def test_of_a_part_of_a_bank_the_whole_is_said():
    from rim.method.shipped import read_shipped

    bank = read_shipped("common")
    n, sources = len(bank.owner), bank.record["sources"]
    assert sum(sources.values()) == n and cli_segment.describe_bank(bank).split(" (")[0].endswith(f" {n} references")
    part = bank.subset(bank.names[:3])
    assert f"3 classes, {len(part.owner)} references, of {n} (" in cli_segment.describe_bank(part)


def test_evaluate_measures_with_the_bank_that_is_named(capsys, tmp_path, monkeypatch):
    from dataclasses import replace
    from rim.measure import evaluation
    from rim.method.shipped import read_shipped

    whole, measured = read_shipped("toybox"), []
    turned = replace(whole, foreground=whole.foreground[::-1].copy(), record=whole.record, memory={})
    for name, bank in (("whole", whole), ("turned", turned), ("pair", whole.subset(("boat", "tree")))):
        bank.save(tmp_path / f"{name}.safetensors")
    run_method = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda *how: measured.append(1) or run_method(*how))

    def evaluated(*bank):
        words = ["evaluate", "toybox", "--limit", 1, "--worst", 0, "--out", tmp_path / "out", *bank]
        code, out, err = run(capsys, *words, "--set", f"store={tmp_path / 'store'}")
        assert code == 0, err
        return out, *((tmp_path / "out" / name).read_text() for name in ("methods.csv", "report.md")), len(measured)

    said, shipped, _, n = evaluated()
    assert n == 1 and "bank " not in said
    said, same, report, n = evaluated("--bank", tmp_path / "whole.safetensors")
    assert same == shipped and n == 1, "these are the shipped references: their results are in the store"
    assert f"bank {whole.digest[:12]}: 16 classes" in said
    assert f"bank whole.safetensors, sha256 {whole.digest}" in report and str(tmp_path) not in report
    _, other, report, n = evaluated("--bank", tmp_path / "turned.safetensors")
    assert other != shipped and n == 2 and turned.digest in report, "another bank, measured anew"
    assert evaluated("--bank", "toybox")[1::2] == (shipped, 2) and evaluated()[1] == shipped
    code, _, err = run(capsys, "evaluate", "toybox", "--bank", tmp_path / "pair.safetensors", "--out", tmp_path / "no")
    assert code == 2 and "lacks 14 of 16 (sun, moon, star" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "no").exists(), "refused before work begins"


@pytest.mark.promise(15)
def test_an_image_that_fails_is_named_and_the_exit_code_says_so(capsys, tmp_path, bright, monkeypatch):
    from rim.measure import examination
    from rim.method.segmentation import Method

    calls = []

    def predict(image, _):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("too dark")
        return image[..., 0] // 255

    monkeypatch.setitem(examination._METHODS, "moody", lambda rim, benchmark: Method(predict, key={"method": "moody"}))
    code, out, err = run(
        capsys, "evaluate", "toybox", "--method", "moody", "--limit", 3, "--worst", 0, "--out", tmp_path / "out"
    )
    assert (
        code == 1
        and "2 images, 1 excluded" in out
        and "RuntimeError: too dark" in err
        and "too dark" in (tmp_path / "out/set_aside.txt").read_text()
    )
    assert (
        run(capsys, "evaluate", "toybox", "--method", "moody", "--limit", 3, "--worst", 0, "--out", tmp_path / "out")[0]
        == 0
    )
    assert len(calls) == 4 and not (tmp_path / "out/set_aside.txt").exists()


def test_an_interrupted_evaluation_says_how_far_it_came(capsys, tmp_path, monkeypatch):
    from rim.measure import examination
    from rim.method.segmentation import Method

    calls = []

    def predict(image, _):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return image[..., 0] * 0

    monkeypatch.setitem(
        examination._METHODS, "stopped", lambda rim, benchmark: Method(predict, key={"method": "stopped"})
    )
    words = ["evaluate", "toybox", "--method", "stopped", "--limit", 4, "--worst", 0, "--out", tmp_path / "out"]
    code, _, err = run(capsys, *words)
    assert code == 130 and "interrupted; 2 of 4 images are done; the same call goes on from there." in err
    assert run(capsys, *words)[0] == 0 and len(calls) == 5


def test_evaluate_finds_a_folder_in_its_root_and_names_no_path(capsys, tmp_path, bright, tiny_image):
    home = tmp_path / "data/mine"
    for name in ("images", "labels"):
        (home / name).mkdir(parents=True)
    (home / "names.txt").write_text("background\nred\n")
    Image.fromarray(tiny_image).save(home / "images/a.png")
    Image.fromarray((tiny_image[..., 0] > 200).astype(np.uint8)).save(home / "labels/a.png")
    code, out, _ = run(
        capsys,
        "evaluate",
        "mine",
        "--root",
        tmp_path / "data",
        "--method",
        "bright",
        "--out",
        tmp_path / "out",
        "--worst",
        1,
    )
    assert code == 0 and "mine, 1 image " in out and str(tmp_path) not in (tmp_path / "out/report.md").read_text()
    Image.fromarray(np.full(tiny_image.shape[:2], 7, np.uint8)).save(home / "labels/a.png")
    code, _, err = run(
        capsys, "evaluate", "mine", "--root", tmp_path / "data", "--method", "bright", "--out", tmp_path / "out"
    )
    assert code == 2 and "labels must lie in 0..1 or be 255" in err


def test_segment_with_trident(capsys, tmp_path):
    run(capsys, "toybox", "scene", "--seed", 7, "--out", tmp_path)
    code, out, _ = run(
        capsys,
        "segment",
        tmp_path / "scene-7.png",
        "--classes",
        tmp_path / "classes.txt",
        "--out",
        tmp_path / "out",
        "--method",
        "trident",
    )
    found, truth = (np.asarray(Image.open(tmp_path / name)) for name in ("out/scene-7.png", "scene-7-labels.png"))
    assert code == 0 and "fish" in out and (found == truth).mean() > 0.95
    code, _, err = run(
        capsys, "segment", tmp_path / "scene-7.png", "--classes", "boat", "--out", tmp_path, "--method", "poseidon"
    )
    assert code == 2 and "poseidon" in err


def test_evaluate_with_trident(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RIM_STORE", str(tmp_path / "store"))
    code, out, _ = run(
        capsys, "evaluate", "toybox", "--method", "trident", "--limit", 2, "--worst", 0, "--out", tmp_path / "out"
    )
    assert code == 0 and "| trident |" in out and (tmp_path / "out/report.md").is_file()


def test_the_store_is_listed_verified_and_pruned(capsys, tmp_path):
    from rim.base.store import Store

    store, there = Store(tmp_path / "store"), ("--set", f"store={tmp_path / 'store'}")
    for slot in range(3):
        path = store.put("masks", dict(slot=slot), dict(x=np.zeros(9)))
    code, out, _ = run(capsys, "store", "list", *there)
    assert code == 0 and "masks               3 entries" in out
    assert run(capsys, "store", "verify", *there)[0] == 0
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = run(capsys, "store", "verify", *there)
    assert code == 1 and str(path) in out and "1 damaged" in out and path.exists()
    assert (
        run(capsys, "store", "verify", "--remove", *there)[0] == 1
        and not path.exists()
        and run(capsys, "store", "verify", *there)[0] == 0
    )
    assert "0 entries and 0 temporary" in run(capsys, "store", "prune", "--older-than", "30d", *there)[1]
    assert (
        "2 entries" in run(capsys, "store", "prune", "--kind", "masks", "--dry-run", *there)[1]
        and len(store.list("masks")) == 2
    )
    assert "2 entries" in run(capsys, "store", "prune", "--limit", "0kB", *there)[1] and store.list("masks") == []
    for words, named in (
        (["prune", "--older-than", "long"], "'long'"),
        (["prune", "--limit", "10"], "'10'"),
        (["list", "--kind", "mask"], "'mask'"),
    ):
        code, _, err = run(capsys, "store", *words, *there)
        assert code == 2 and named in err and len(err.strip().splitlines()) == 1


def test_an_engine_reaches_the_evaluation(capsys, tmp_path, monkeypatch):
    from rim.measure import evaluation

    def elsewhere(methods, benchmark, store, engine, progress):
        raise ValueError(f"the engine is {engine.name} with {engine.workers} workers")

    monkeypatch.setattr(evaluation, "_measure_elsewhere", elsewhere)
    words = "evaluate", "toybox", "--limit", 1, "--engine", "processes", "--workers", 3, "--out", tmp_path
    assert run(capsys, *words)[::2] == (2, "rim: the engine is processes with 3 workers\n")


@pytest.mark.slow  # two processes load Trident; test_engine compares engines with lighter work
def test_an_engine_evaluates_what_one_process_would(capsys, tmp_path):
    words = ["evaluate", "toybox", "--method", "trident", "--limit", 1, "--worst", 0]
    for engine in ("serial", "processes"):
        assert (
            run(
                capsys,
                *words,
                "--engine",
                engine,
                "--set",
                f"store={tmp_path / engine}-store",
                "--out",
                tmp_path / engine,
                "--workers",
                1,  # each loads the models; that several agree is shown by the tests of engines, with lighter work
            )[0]
            == 0
        )
    assert all(
        p.read_bytes() == (tmp_path / "processes" / p.name).read_bytes() for p in (tmp_path / "serial").iterdir()
    )


@pytest.mark.parametrize(
    "words, named",
    [
        (["--engine", "threads"], "threads"),
        (["--engine", "processes", "--workers", "-1"], "-1"),
        (["--address", "host:1"], "engine ray"),
        (["--shard", "auto"], "none of them is set"),
    ],
)
def test_an_engine_or_shard_that_cannot_be_is_one_sentence(capsys, tmp_path, monkeypatch, words, named):
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run(capsys, "evaluate", "toybox", "--out", tmp_path / "out", *words)
    assert code == 2 and named in err and len(err.strip().splitlines()) == 1
