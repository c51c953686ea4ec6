import numpy as np, pytest
from hypothesis import given, strategies as st
from rim.method.vocabulary import IGNORE_COLOUR, Vocabulary


def test_numbers_follow_the_names():
    vocabulary = Vocabulary.parse("boat, sofa|couch\n# a comment\n\ntree")
    assert vocabulary.labels == ("background", "boat", "sofa", "tree") and len(vocabulary) == 4
    assert vocabulary.prompts("one {}") == [
        (1, "one boat", "boat"),
        (2, "one sofa", "sofa"),
        (2, "one couch", "couch"),
        (3, "one tree", "tree"),
    ]
    assert Vocabulary.of(["road", "sky"], background=False).prompts()[0][0] == 0


def test_all_ways_in_agree(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffbackground\nboat\r\nsofa|couch\n", encoding="utf-8")
    ways = [
        "background, boat, sofa|couch",
        ["boat", "sofa|couch"],
        ("background", "boat", "sofa | couch"),
        tmp_path / "names.txt",
        Vocabulary(("boat", "sofa"), {"sofa": ["couch"]}),
    ]
    assert len({Vocabulary.of(way) for way in ways}) == 1 and all(
        Vocabulary.of(way) == Vocabulary.of(ways[0]) for way in ways
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "at least one"),
        ([], "at least one"),
        ("background", "at least one"),
        ("boat, , tree", "blank"),
        (["boat", "  "], "blank"),
        ("boat, BOAT", "named once"),
        ("straße, STRASSE", "named once"),
        ("caf\u00e9, cafe\u0301", "named once"),
        ("sofa|couch, couch", "named once"),
        ("boat|boat", "named once"),
        (["boat", "Background"], "background=False"),
        ([3], "got 3"),
        (["a\x00b"], "printable"),
    ],
)
@pytest.mark.promise(9)
def test_what_is_no_vocabulary_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.of(words)


def test_a_text_is_no_sequence_of_names():
    with pytest.raises(ValueError, match="Vocabulary.parse"):
        Vocabulary("boat")


def test_synonyms_belong_to_a_class():
    with pytest.raises(ValueError, match="sofa"):
        Vocabulary(("boat",), {"sofa": ("couch",)})


def test_an_unknown_class_is_named():
    with pytest.raises(ValueError, match="'lamp'"):
        Vocabulary.of("boat, tree").index("lamp")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00b")
    with pytest.raises(ValueError, match="names.txt"):
        Vocabulary.of(tmp_path / "names.txt")


@pytest.mark.promise(9)
def test_large_and_long_and_foreign():
    vocabulary = Vocabulary.of([f"名前 {i}" for i in range(5000)] + ["x" * 200])
    assert len(vocabulary.prompts()) == 5001 and vocabulary.palette().shape == (5002, 3)


@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1, unique_by=lambda w: w.casefold())
)
def test_text_that_is_parsed_can_be_parsed_again(words):
    try:
        vocabulary = Vocabulary.of(words)
    except ValueError:
        return  # two words that become one in normal form
    assert Vocabulary.of(",".join(vocabulary.names)) == vocabulary


@pytest.mark.parametrize("background", [True, False])
def test_colours_differ(background):
    palette = Vocabulary.of([str(i) for i in range(150)], background).palette()
    assert palette.dtype == np.uint8 and palette.shape == (150 + background, 3)
    assert len(np.unique(palette, axis=0)) == len(palette) and IGNORE_COLOUR not in map(tuple, palette.tolist())
    assert ((palette[0] == 0).all()) == background
