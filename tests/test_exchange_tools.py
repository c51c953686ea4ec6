"""What is handed on, read and written by the tools themselves: Datumaro (CVAT's converter), panopticapi, Label Studio's
SDK, `datasets` and ultralytics. They want other versions than we, so they live in an environment of their own, which
`make test-exchange` makes; without it these tests say NOT TESTED."""

import json, os, subprocess, zipfile
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from conftest import ROOT
from handed import HARD, hard_results, results_of
from rim.exchange.handing import export_labels, import_labels
from rim.exchange.items import segments
from rim.exchange.training import export_dataset, _split_by_hash
from rim.method.vocabulary import Vocabulary

PYTHON = Path(os.environ.get("RIM_EXCHANGE_PYTHON", ROOT / ".venv-exchange/bin/python"))
pytestmark = [
    pytest.mark.promise(64),
    pytest.mark.skipif(not PYTHON.exists(), reason="NOT TESTED by the tools' own code: make test-exchange brings them"),
]


def tool(code, *words, cwd):
    "What a script in the tools' environment prints as its last line, as JSON."
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(cwd)}
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": "1", **offline}
    command = [str(PYTHON), "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


DATUMARO = """
import sys, json, datumaro as dm, numpy as np
path, form, out = sys.argv[1:]
data = dm.Dataset.import_from(path, form)
names = [label.name for label in data.categories()[dm.AnnotationType.label].items]
mask = lambda a: np.asarray(a.image, bool)
runs = lambda m: np.flatnonzero(np.diff(m.ravel().astype(np.int8), prepend=0, append=0)).tolist()
masks = lambda item: [a for a in item.annotations if a.type == dm.AnnotationType.mask]
found = {i.id: [[names[a.label], list(mask(a).shape), runs(mask(a))] for a in masks(i)] for i in data}
if out != "-":
    exact = {"segmentation_mode": "mask"} if form == "coco_instances" else {}  # by itself it draws polygons
    data.export(out, form, save_media=False, **exact)
print(json.dumps([names, found]))
"""
READ_BY_DATUMARO = {  # our format -> Datumaro's name, folder
    "coco": "coco_instances",
    "coco-panoptic": "coco_panoptic",
    "voc": "voc_segmentation",
    "cvat-masks": "voc_segmentation",
    "cvat": "cvat",
}


def runs(mask):
    return np.flatnonzero(np.diff(mask.ravel().astype(np.int8), prepend=0, append=0)).tolist()


def unpacked(folder):
    for archive in folder.glob("*.zip"):
        zipfile.ZipFile(archive).extractall(folder)
        archive.unlink()
    (folder / "labels.json").unlink(missing_ok=True)  # for people who make a task, not for Datumaro
    return folder


@pytest.mark.parametrize("form", READ_BY_DATUMARO)
def test_datumaro_reads_every_mask(tmp_path, form):
    results = hard_results(tmp_path)
    export_labels(results, tmp_path / "out", form, images=True)
    names, found = tool(DATUMARO, unpacked(tmp_path / "out"), READ_BY_DATUMARO[form], "-", cwd=tmp_path)
    assert [n for n in names if n in HARD] == list(HARD)
    assert set(found) == {item.name for item in results}
    words = results.vocabulary
    for item in results:
        if form == "coco":
            wanted = [i for i in item.instances if i.label]
        else:
            stuff = form == "coco-panoptic"  # there the background is one segment
            item = replace(item, instances=tuple(i for i in item.instances if i.label))
            wanted = segments(item, (255,) if stuff else (0,))
        name = {254: "__unknown__", 255: "__ignore__"}
        wanted = [[name.get(w.label) or words.labels[w.label], list(w.mask.shape), runs(w.mask)] for w in wanted]
        assert sorted(found[item.name]) == sorted(wanted), item.name


@pytest.mark.parametrize("form", READ_BY_DATUMARO)
def test_what_datumaro_writes_comes_back(tmp_path, form):
    "Out with our code, through Datumaro, and back: each pixel has its name."
    results = hard_results(tmp_path)
    export_labels(results, tmp_path / "out", form, images=True)
    theirs = tmp_path / "theirs"
    tool(DATUMARO, unpacked(tmp_path / "out"), READ_BY_DATUMARO[form], theirs, cwd=tmp_path)
    source = next(theirs.rglob("*.xml")) if form == "cvat" else theirs
    back = import_labels(source, results.images, form, results.vocabulary)
    for item in results:
        if item.file not in back.files:  # Datumaro writes no empty image into some formats
            assert not (set(np.unique(item.labels)) & {1, 2, 3})
            continue
        found = back[back.files.index(item.file)]
        if form == "coco":
            assert [i.mask.tolist() for i in found.instances] == [i.mask.tolist() for i in item.instances if i.label]
        else:
            assert (found.labels == item.labels).all(), item.file


PANOPTIC = """
import sys, json
from panopticapi.evaluation import pq_compute
one, two = sys.argv[1:]
found = pq_compute(one + ".json", two + ".json", one, two)
print(json.dumps({k: found[k] for k in ("All", "Things", "Stuff")}))
"""


def test_panopticapi_finds_nothing_to_object_to(tmp_path):
    "It checks ids, areas and categories of every segment; a perfect copy has a quality of 1, a damaged one less."
    results = hard_results(tmp_path)
    export_labels(results, tmp_path / "one", "coco-panoptic")
    export_labels(import_labels(tmp_path / "one", results.images, "coco-panoptic"), tmp_path / "two", "coco-panoptic")
    places = [tmp_path / name / "annotations/panoptic_default" for name in ("one", "two")]
    found = tool(PANOPTIC, *places, cwd=tmp_path)
    assert all(found[part]["pq"] == 1 for part in found) and found["Things"]["n"] == 3
    other = Image.open(path := places[1] / "noise.png")
    pixels = np.array(other)
    pixels[:9] = pixels[20, 0]
    Image.fromarray(pixels).save(path)
    assert 0 < tool(PANOPTIC, *places, cwd=tmp_path)["All"]["pq"] < 1


STUDIO = """
import sys, json, numpy as np
from label_studio_sdk.converter import brush
tasks = json.load(open(sys.argv[1], encoding="utf-8"))
for task in tasks:
    results = task["predictions"][0]["result"]
    layers = brush.decode_from_annotation("tag", [{**r, **r["value"]} for r in results])
    for result, pixels in zip(results, layers.values(), strict=True):
        result["value"]["rle"] = brush.mask2rle(pixels)
    task["annotations"] = [{"result": results, "was_cancelled": False}]
json.dump(tasks, open(sys.argv[2], "w", encoding="utf-8"))
print(len(tasks))
"""


def test_label_studio_writes_what_it_has_read(tmp_path):
    results = hard_results(tmp_path)
    export_labels(results, tmp_path / "out", "label-studio")
    assert tool(STUDIO, tmp_path / "out/tasks.json", tmp_path / "theirs.json", cwd=tmp_path) == 4
    back = import_labels(tmp_path / "theirs.json", results.images, "label-studio", results.vocabulary)
    assert all((back[i].labels == item.labels).all() for i, item in enumerate(results))


def blobs(tmp_path, n=12):
    "Two classes, one with a hole, one in two parts."
    words, maps = Vocabulary(("ring", "drops")), {}
    y, x = np.indices((96, 128))
    for i in range(n):
        labels = np.zeros((96, 128), np.uint16)
        away = np.hypot(y - 40 - i, x - 40)
        labels[(away < 30) & (away > 12)] = 1
        labels[(np.hypot(y - 30, x - 100) < 15) | (np.hypot(y - 75, x - 95 - i) < 9)] = 2
        maps[f"photo {i}.png"] = (labels, ())
    return results_of(tmp_path, words, maps)


IMAGEFOLDER = """
import sys, json, numpy as np
from datasets import load_dataset
data = load_dataset("imagefolder", data_dir=sys.argv[1], cache_dir=sys.argv[2])
rows = {part: [[list(r["image"].size), np.array(r["label"]).tolist()] for r in data[part]] for part in data}
print(json.dumps([{part: data[part].column_names for part in data}, rows]))
"""


def test_datasets_loads_images_and_label_maps(tmp_path):
    "The columns `image` and `label` that the semantic segmentation example of transformers asks for."
    results = blobs(tmp_path)
    (tmp_path / "set").mkdir()
    train, validation, _ = export_dataset(results, tmp_path / "set", "transformers", 0.4)
    columns, rows = tool(IMAGEFOLDER, tmp_path / "set", tmp_path / "cache", cwd=tmp_path)
    assert columns == {"train": ["image", "label"], "validation": ["image", "label"]}
    assert [len(rows["train"]), len(rows["validation"])] == [train, validation]
    parts = _split_by_hash([item.name for item in results], 0.4)
    for part in columns:
        wanted = [item.labels.tolist() for item, p in zip(results, parts) if p == part]
        assert [label for _, label in rows[part]] == wanted and all(size == [128, 96] for size, _ in rows[part])


YOLO = """
import sys, json, numpy as np, yaml
from pathlib import Path
from ultralytics.data.utils import check_det_dataset, img2label_paths, polygon2mask, verify_image_label
data = check_det_dataset(sys.argv[1], autodownload=False)
found = {}
for part in ("train", "val"):
    images = sorted(map(str, Path(data[part]).iterdir()))
    for image, label in zip(images, img2label_paths(images)):
        out = verify_image_label((image, label, "", False, len(data["names"]), 0, 0, False))
        boxes, (h, w), segs, message = out[1], out[2], out[3], out[9]
        assert not message and out[8] == 0, message
        masks = np.zeros((h, w), int)
        for row, s in zip(boxes, segs):
            masks[polygon2mask((h, w), [(s * (w, h)).reshape(-1)]) > 0] = int(row[0]) + 1
        found[Path(image).stem] = masks.tolist()
print(json.dumps([{str(k): v for k, v in data["names"].items()}, found]))
"""


def test_ultralytics_draws_nearly_the_same_masks(tmp_path, capsys):
    results = blobs(tmp_path)
    (tmp_path / "set").mkdir()
    *_, lost = export_dataset(results, tmp_path / "set", "ultralytics", 0.4)
    names, found = tool(YOLO, tmp_path / "set/data.yaml", cwd=tmp_path)
    assert names == {"0": "ring", "1": "drops"} and set(found) == {item.name for item in results}
    off = sum((np.array(found[item.name]) != item.labels).sum() for item in results)
    theirs = off / sum((item.labels > 0).sum() for item in results)
    assert theirs < 0.03 and abs(theirs - lost) < 0.01, (theirs, lost)
