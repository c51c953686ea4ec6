"The doctor names everything a profile needs, and believes only what is complete."

import json
import numpy as np
import pytest
from PIL import Image
from rim.apps import doctor
from rim.apps.cli import main
from rim.measure.sources import SOURCES
from rim.base.settings import Settings


@pytest.fixture
def voc(tmp_path, monkeypatch):
    "A VOC2012 of two images."
    home = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    for key in ("2007_000001", "2007_000002"):
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(home / f"JPEGImages/{key}.jpg")
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(home / f"SegmentationClass/{key}.png")
    (home / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n2007_000002\n")
    return tmp_path


def test_every_published_benchmark_has_one_download():
    named = [name for download in doctor._DOWNLOADS for name in download.benchmarks]
    assert sorted(named) == sorted(SOURCES)
    assert all(
        download.licence and download.megabytes > 0 and "{}" in download.command for download in doctor._DOWNLOADS
    )


def test_a_part_of_a_benchmark_is_not_the_benchmark(voc, monkeypatch):
    from dataclasses import replace

    assert "has 2 of 1449 images" in doctor._trouble("voc21", voc)
    monkeypatch.setitem(SOURCES, "voc21", replace(SOURCES["voc21"], images=2))
    rows = {row.name: row for row in doctor._data_findings(Settings.from_profile("paper", data_dir=str(voc)))}
    assert rows["voc21"].present and not rows["voc21"].command and rows["voc21"].where == str(voc / "VOCdevkit/VOC2012")
    assert not rows["ade20k"].present and str(voc) in rows["ade20k"].command
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_000002.jpg").unlink()
    assert "lacks 1 files" in doctor._trouble("voc21", voc)


def test_only_profiles_that_measure_on_data_need_data(tmp_path):
    def kinds(profile, **own):
        return {
            row.kind
            for row in doctor.findings(Settings.from_profile(profile, models_dir=str(tmp_path), data_dir="", **own))
        }

    assert kinds("paper") == {"weights", "data"} and kinds("toybox") == kinds("rehearsal") == {"weights"}
    assert kinds("toybox", benchmark="voc21") == {"weights", "data"}


def test_scripts_can_read_the_report(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RIM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("RIM_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["doctor", "--profile", "paper", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 7 + 8 and all(
        {"name", "kind", "where", "present", "revision", "licence", "megabytes", "command"} <= set(row) for row in rows
    )
    mae = next(row for row in rows if row["name"] == "facebook/vit-mae-base")
    assert mae["revision"] == Settings.from_profile("paper").mae_revision and mae["licence"] == "Apache-2.0"
    assert main(["doctor", "--profile", "rehearsal", "--json"]) == 0
