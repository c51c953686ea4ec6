"""The bank of common things: what becomes a reference, where its weight lies, and what the shipped one promises."""

import numpy as np, pytest, torch
from PIL import Image
from hypothesis import given, settings as hypothesis_settings, strategies as st
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.common import _activation, _area_mean, _background_segments, _category_regions, common_bank
from rim.method.common import _describe_sample, _map_references, _sample_references
from rim.method.tools import Tools


@pytest.fixture(scope="module")
def tools():
    tiny = dict(pretrained=False, efficientnet="tiny:efficientnet", sam="tiny:sam", shipped="")
    return Tools(Settings.from_profile("photo", reference_side=64, region_side=128, **tiny))


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 7))
def test_area_mean_is_the_mean_over_pixels(seed, h, w):
    rng = np.random.default_rng(seed)
    grid, masks = rng.normal(size=(3, h, w)).astype(np.float32), rng.random((4, 6 * h, 5 * w)) < 0.3
    masks[0] = False
    full = grid.repeat(6, 1).repeat(5, 2)
    found = _area_mean(torch.from_numpy(grid), masks)
    assert np.isnan(found[0]).all()
    for mask, vector in zip(masks[1:], found[1:]):
        if mask.any():
            np.testing.assert_allclose(vector, full[:, mask].mean(1), atol=1e-5)


def test_regions_are_categories_and_their_parts():
    values = np.zeros((100, 100), np.uint8)
    values[10:30, 10:30], values[50:80, 50:80], values[90:92, 0:3], values[0:5] = 17, 17, 18, 255
    masks, categories = _category_regions(values)
    assert categories == [17, 17, 17, 18] and (masks[0] == (values == 17)).all()  # 255 is no category
    assert (masks[1] | masks[2] == masks[0]).all() and masks[1].sum() == 900


def test_small_regions_count_where_there_are_no_larger_ones(tools):
    whole = {part: np.ones((2, 3)) for part in ("foreground", "background", "whole")}
    photo = {**whole, "category": np.array([17, 18]), "negative": np.zeros((0, 3))}
    small, large = {**photo, "area": np.full(2, 5e-4)}, {**photo, "area": np.array([0.1, 5e-4])}
    bank = common_bank([("a", small), ("b", large)], [], tools)
    assert {bank.names[i]: int((bank.owner == i).sum()) for i in range(2)} == {"cat": 1, "dog": 2}


def test_segments_divide_what_no_category_covers():
    values = np.zeros((64, 96), np.uint8)
    values[:32, :48], values[60:] = 1, 255
    masks = _background_segments(torch.rand(5, 8, 12), values)
    assert 1 <= len(masks) <= 6 and masks.sum(0).max() == 1 and not (masks & (values != 0)).any()
    assert len(_background_segments(torch.rand(5, 8, 12), np.ones((64, 96), np.uint8))) == 0


def test_a_sample_is_weighted_by_its_name(tools):
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    where, found = _activation(tools, image, 2), _describe_sample(tools, image, 2)
    grid = tools.encoder.features(image)
    assert where.min() >= 0 and where.shape == grid.shape[1:]
    np.testing.assert_allclose(found["foreground"], ((grid * where).sum((1, 2)) / where.sum()).numpy(), rtol=1e-4)
    np.testing.assert_allclose(found["whole"], grid.mean((1, 2)).numpy(), rtol=1e-4, atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    "Two photographs with maps, a sample for each of the ten names of the tiny classifier."
    rng, noise = np.random.default_rng(1), lambda: Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8))
    for name in ("images", "coco_ids", "samples"):
        (tmp_path / name).mkdir()
    values = np.zeros((64, 96), np.uint8)
    values[8:40, 8:60] = 18
    for key in "ab":
        noise().save(tmp_path / f"images/{key}.jpg")
        Image.fromarray(values).save(tmp_path / f"coco_ids/{key}.png")
    synsets = "n02085620 n02085782 n02085936 n02086079 n02086240 n02086646 n02086910 n02087046 n02087394 n02088094"
    for synset in synsets.split():
        noise().save(tmp_path / f"samples/{synset}_some_dog.jpg")
    return tmp_path


def test_a_bank_of_a_folder_is_resumable(folder, tools, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    maps = _map_references(folder, "ab", tools, store, False)
    samples = _sample_references(folder / "samples", tools, store, False)
    bank = common_bank(maps, samples, tools)
    assert bank.names[0] == "dog" and len(bank) == 11 and len(bank.owner) == 12
    assert bank.extra["masked"].sum() == 2 and len(bank.negatives["foreground"]) >= 2
    monkeypatch.setattr("rim.method.common._describe_map", lambda *args: pytest.fail("it is kept"))
    monkeypatch.setattr("rim.method.common._describe_sample", lambda *args: pytest.fail("it is kept"))
    again = (
        _map_references(folder, "ab", tools, store, False),
        _sample_references(folder / "samples", tools, store, False),
    )
    assert common_bank(*again, tools).digest == bank.digest


def test_samples_are_one_per_name(folder, tools):
    next((folder / "samples").iterdir()).unlink()
    with pytest.raises(ValueError, match="one per name of the classifier, 10: .* has 9"):
        _sample_references(folder / "samples", tools, None, False)
