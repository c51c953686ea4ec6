"""Known words: each word has one meaning, broader words comprise narrower ones, and unknown words get near ones."""

import pytest
from rim.method.vocabulary import clean_name
from rim.method.words import coco_things, known_words, _singulars
from rim.measure.folders import read_names
from rim.measure.sources import names_file

WORDS = known_words()


def test_each_word_is_clean_and_has_one_synset():
    words = [w for its in WORDS.names.values() for w in its]
    assert len({w.casefold() for w in words}) == len(words)
    assert all(clean_name(w) == w for w in words)


def test_broader_synsets_are_known_and_without_circles():
    assert all(b in WORDS.names for its in WORDS.broader.values() for b in its)
    assert all(s in WORDS.narrower[s] for s in WORDS.names)
    above = {s: {a for a, below in WORDS.narrower.items() if s in below} for s in list(WORDS.names)[::7]}
    assert all(s not in WORDS.narrower[b] for s in above for b in WORDS.narrower[s] if b != s)


@pytest.mark.parametrize("folder", ["coco-object", "voc"])
def test_the_names_of_benchmarks_are_known(folder):
    names = read_names(names_file(folder)).names
    found = [WORDS.find(name) for name in names]
    assert None not in found and len(set(found)) == len(names) and set(found) <= set(coco_things().values())


def test_coco_names_are_the_first_words():
    names = read_names(names_file("coco-object")).names
    assert tuple(WORDS.names[s][0] for s in coco_things().values()) == names


@pytest.mark.parametrize(
    "word, broader",
    [("cat", "animal"), ("couch", "furniture"), ("banana", "fruit"), ("pizza", "food"), ("bus", "vehicle")],
)
def test_broad_words_comprise(word, broader):
    assert WORDS.find(word) in WORDS.narrower[WORDS.find(broader)]
    assert WORDS.find("traffic light") not in WORDS.narrower[WORDS.find(broader)]


def test_plurals_and_case():
    for word, plural in (("knife", "Knives"), ("bus", "buses"), ("dog", "DOGS"), ("strawberry", "strawberries")):
        assert WORDS.find(plural) == WORDS.find(word) is not None
    assert _singulars("s") == ["s"]


def test_unknown_words_have_near_ones():
    assert WORDS.find("wooden chair") is None and WORDS.nearest("wooden chair")[0] == "chair"
    assert "giraffe" in WORDS.nearest("giraff") and len(WORDS.nearest("qqqq", 5)) == 5
