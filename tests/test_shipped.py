"""Shipped banks: used where they equal what would be generated, and only there; words of a photographed bank get what
they comprise."""

from dataclasses import replace
import numpy as np, pytest
from rim.base.settings import Settings
from rim.method.bank import ReferenceBank
from rim.method.tools import Tools
from rim.method.matcher import segmenter_class
from rim.method.segmenter import RIM
from rim.measure.folders import read_names
from rim.measure.sources import names_file
from rim.method.shipped import _BANKS as BANKS
from rim.method.shipped import (
    extend_bank,
    photographed_part,
    read_shipped,
    share_things,
    ship,
    shipped_bank,
    shipped_names,
)
from rim.method.vocabulary import Vocabulary
from rim.method.words import known_words


@pytest.fixture(scope="module")
def toybox():
    return Tools(Settings.from_profile("toybox"))


def things(*names, dim=3, **record):
    "A photographed bank with two references per name: the first has a true mask."
    n = 2 * len(names)
    values = np.arange(n * dim, dtype=np.float32).reshape(n, dim)
    shown = {"owner": np.zeros(0, np.int64), "image": np.zeros((0, 64, 64, 3), np.uint8)}
    shown |= {k: np.zeros((0, 64, 64), np.uint8) for k in ("mask", "attention")}
    extra = {"masked": np.tile([1.0, 0.0], len(names))[:, None].astype(np.float32)}
    owner = np.repeat(np.arange(len(names)), 2)
    negatives = {"foreground": -np.ones((2, dim), np.float32)}
    return ReferenceBank(
        names, owner, values, -values, values, shown, {"source": "photographs", **record}, extra, negatives
    )


def test_the_toybox_bank_is_used_where_generation_gives_the_same(toybox):
    part = shipped_bank("sun, boat", toybox)
    assert part.names == ("sun", "boat") and len(part.owner) == 2 * toybox.settings.images_per_class
    fewer = shipped_bank("boat", Tools(toybox.settings.replace(images_per_class=8)))
    assert (fewer.foreground == part.foreground[32:40]).all() and len(fewer.owner) == 8


@pytest.mark.parametrize(
    "change",
    [
        dict(seed=1),
        dict(guidance=2),
        dict(images_per_class=33),
        dict(mask_min_area=0.1),
        dict(feature="mae"),
        dict(shipped=""),
    ],
    ids=str,
)
def test_any_other_setting_generates(toybox, change):
    assert shipped_bank("boat", Tools(toybox.settings.replace(**change))) is None


@pytest.mark.parametrize("words", ["boat, zebra", "boat|ship"])
def test_other_words_generate(toybox, words):
    assert shipped_bank(words, toybox) is None


@pytest.mark.slow
def test_generation_gives_the_shipped_bank(toybox):
    settings = toybox.settings.replace(images_per_class=3)
    generated = ReferenceBank.build("boat, sun", settings, progress=False, tools=Tools(settings))
    shipped = shipped_bank("boat, sun", Tools(settings))
    for part in ("owner", "foreground", "background", "whole"):
        np.testing.assert_allclose(getattr(shipped, part), getattr(generated, part), rtol=1e-3, atol=1e-3)


def test_the_segmenter_takes_it_without_generating(toybox, monkeypatch):
    monkeypatch.setattr(ReferenceBank, "build", lambda *args: pytest.fail("nothing has to be generated"))
    assert RIM(toybox.settings).bank_for("boat, sun").names == ("boat", "sun")


def test_the_matcher_of_the_toybox_has_a_bank_of_its_own(toybox, monkeypatch):
    monkeypatch.setattr(ReferenceBank, "build", lambda *args: pytest.fail("nothing has to be generated"))
    part = segmenter_class(toybox.settings)(toybox.settings).bank_for("boat, sun")
    assert part.dim == 256 and (part.owner == shipped_bank("boat, sun", toybox).owner).all()


def test_unknown_bank_is_named(toybox):
    with pytest.raises(FileNotFoundError, match="toybox.*got 'nonesuch'"):
        shipped_bank("boat", Tools(toybox.settings.replace(shipped="nonesuch")))
    assert "toybox" in shipped_names() and read_shipped("toybox") is read_shipped("toybox")


def test_words_get_what_they_comprise():
    bank = things("dog", "Egyptian cat", "bus", "cup")
    part = photographed_part(bank, Vocabulary.of("cat, animal, plane|vehicle"))
    assert part.names == ("cat", "animal", "plane") and part.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert (part.foreground == bank.foreground[[2, 3, 0, 1, 4, 5]]).all()
    assert (part.negatives["foreground"] == bank.negatives["foreground"]).all()


def test_two_names_of_one_thing_are_refused():
    with pytest.raises(ValueError, match="'canine' comprises nothing besides 'dog'"):
        share_things(things("dog", "bus"), Vocabulary.of("dog, canine, bus"))


def test_unknown_words_are_answered_in_one_sentence():
    with pytest.raises(ValueError) as said:
        photographed_part(things("chair", "bus"), Vocabulary.of("bus, wooden chair"), "common")
    assert "'wooden chair'" in str(said.value) and "'chair'" in str(said.value)
    assert "--photographs" in str(said.value) and "--set shipped=" in str(said.value) and "\n" not in str(said.value)


def test_own_names_of_a_larger_bank_count():
    part = photographed_part(things("Rex", "bus"), Vocabulary.of("rex, vehicle"))
    assert known_words().find("Rex") is None and part.owner.tolist() == [0, 0, 1, 1]


def test_a_bank_of_ones_own_is_extended(toybox):
    own = shipped_bank("boat", toybox)
    own = replace(own, names=("my boat",), memory={})
    both = extend_bank(own, Vocabulary.of("sun, my boat"), toybox)
    assert both.names == ("sun", "my boat") and len(both.owner) == 64
    with pytest.raises(ValueError, match="got zebra"):
        extend_bank(own, Vocabulary.of("zebra, my boat"), toybox)


def test_shipping_keeps_vectors_and_some_thumbnails(tmp_path, toybox):
    bank = shipped_bank("boat, sun", toybox)
    again = ReferenceBank.load(ship(bank, "two", {"a": 1}, 1, folder=tmp_path))
    assert again.digest == bank.digest and again.record["made_with"] == {"a": 1}
    assert again.thumbnails["owner"].tolist() == [0, 1]


def test_the_bank_of_common_things_is_vectors_and_a_record():
    bank, file = read_shipped("common"), BANKS / "common.safetensors"
    assert file.stat().st_size <= 6e6 and not len(bank.thumbnails["owner"])
    assert np.isfinite(bank.foreground).all() and len(bank.negatives["foreground"]) > 100
    assert len(bank.record["photographs"]) == 143 and all(bank.record["photographs"].values())
    assert bank.record["sources"] == {"regions of category maps": int(bank.extra["masked"].sum()), "samples": 1000}


@pytest.mark.parametrize("folder", ["voc", "coco-object"])
def test_the_bank_of_common_things_knows_the_benchmarks(folder):
    names = read_names(names_file(folder), True)
    part = photographed_part(read_shipped("common"), names)
    assert set(part.owner) == set(range(len(names.names)))
