"""Benchmarks: what is wrong with the files is named before a model runs."""
import numpy as np, pytest
from PIL import Image
from rim.datasets import Benchmark, FolderBenchmark, ToyboxBenchmark, get_benchmark, read_names
from rim.settings import Settings

@pytest.fixture
def folder(tmp_path, rng):
    for part in ("images", "labels"): (tmp_path / part).mkdir()
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    for i, size in enumerate([(8, 10), (5, 5), (7, 3)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
        labels = rng.integers(0, 3, size, dtype=np.uint8); labels[0, 0] = 255
        Image.fromarray(labels).save(tmp_path / "labels" / f"{i}.png")
    return tmp_path

def test_folder(folder):
    bench = FolderBenchmark(folder)
    bench.check()
    image, truth, key = bench[0]
    assert isinstance(bench, Benchmark) and len(bench) == 3 and key == "0" and image.shape == (8, 10, 3) and truth[0, 0] == 255
    assert bench.vocabulary.labels == ("background", "cat", "dog") and len(FolderBenchmark(folder, 2)) == 2

def test_names_without_background(folder):
    (folder / "names.txt").write_text("cat\ndog")
    assert read_names(folder / "names.txt").labels == ("cat", "dog")

def test_palette_values_not_colours(folder):
    labels = Image.fromarray(np.full((8, 10), 2, np.uint8)); labels.putpalette([7, 7, 7] * 256); labels.save(folder / "labels" / "0.png")
    assert (FolderBenchmark(folder)[0][1] == 2).all()

@pytest.mark.parametrize("damage, error, match", [
    (lambda f: (f / "labels/1.png").unlink(), FileNotFoundError, "1.png has no partner in labels"),
    (lambda f: (f / "images/1.png").unlink(), FileNotFoundError, "1.png has no partner in images"),
    (lambda f: (f / "names.txt").unlink(), FileNotFoundError, "names.txt"),
    (lambda f: Image.new("L", (9, 9)).save(f / "labels/1.png"), ValueError, "one size.*1.png"),
    (lambda f: Image.fromarray(np.full((5, 5), 7, np.uint8)).save(f / "labels/1.png"), ValueError, r"0..2.*1.png contains \[7\]"),
    (lambda f: Image.new("RGB", (5, 5)).save(f / "labels/1.png"), ValueError, "palette or grey"),
    (lambda f: (f / "labels/1.png").write_bytes(b""), ValueError, "1.png"),
    (lambda f: Image.new("RGB", (5, 5)).save(f / "images/1.jpg"), ValueError, "one file per name")])
def test_faults_are_named(folder, damage, error, match):
    damage(folder)
    with pytest.raises(error, match=match): FolderBenchmark(folder).check()

def test_toybox():
    bench = ToyboxBenchmark(3)
    assert isinstance(bench, Benchmark) and len(bench) == 3 and len(bench.vocabulary.labels) >= 17
    image, truth, key = bench[1]
    again = ToyboxBenchmark(9)[1]
    assert (image == again[0]).all() and (truth == again[1]).all() and key == again[2] and truth.max() < len(bench.vocabulary.labels)
    assert bench[1][2] != ToyboxBenchmark(3, "validation")[1][2]

def test_by_name(folder):
    settings = Settings.from_profile("toybox")
    assert len(get_benchmark("toybox", settings)) == 240 and len(get_benchmark(str(folder), settings)) == 3
    with pytest.raises(FileNotFoundError, match="nowhere"): get_benchmark("nowhere", settings)
