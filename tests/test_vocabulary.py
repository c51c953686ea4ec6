import numpy as np, pytest
from hypothesis import given, strategies as st
from rim.method.vocabulary import IGNORE_COLOUR, _Prompt, Vocabulary, clean_name


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


def test_colours_of_the_toybox_are_told_apart_at_a_glance():
    "By CIEDE2000, which did not choose them: two differences of 1 are just told apart side by side."
    from skimage.color import deltaE_ciede2000, rgb2lab
    from rim.method.overlay import overlay_colours
    from rim.toybox.world import World

    for least, shown in ((15, lambda palette: palette), (11, overlay_colours)):
        lab = rgb2lab(shown(Vocabulary(World.names).palette()) / 255.0)
        apart = deltaE_ciede2000(lab[:, None], lab[None])
        assert apart[~np.eye(len(lab), dtype=bool)].min() > least


UNSEEN = ["\u200b", "\ufeff", "\u00ad", "\u200e", "\u202e", "\u2060", "\u200d", "\ufe0f", "\u3164", "\U000e0041"]


@pytest.mark.promise(32)
@pytest.mark.parametrize("letter", UNSEEN, ids=[f"{ord(c):x}" for c in UNSEEN])
@pytest.mark.parametrize("place", range(4))
def test_letters_that_nobody_sees_make_no_other_word(letter, place):
    word = "cat"[:place] + letter + "cat"[place:]
    assert Vocabulary.of([word]).names == ("cat",) and Vocabulary.of("cat").index(word) == 1
    with pytest.raises(ValueError, match="named once"):
        Vocabulary.of(["cat", word])
    with pytest.raises(ValueError, match="blank"):
        clean_name(letter)


@pytest.mark.promise(32)
@pytest.mark.parametrize(
    "word", ["می\u200cخواهم", "क्\u200dष", "\U0001f469\u200d\U0001f680", "\u2764\ufe0f\u200d\U0001f525"]
)
def test_joiners_stay_where_writing_needs_them(word):
    assert clean_name(word) == word


@pytest.mark.promise(32)
def test_half_a_code_point_is_no_letter():
    with pytest.raises(ValueError, match="printable"):
        Vocabulary.of(["ca\ud800t"])


@given(st.text())
def test_a_clean_name_is_clean(text):
    try:
        name = clean_name(text)
    except ValueError:
        return
    assert clean_name(name) == name and name.encode("utf-8").decode("utf-8") == name


TWO = [
    "cat, dog",
    "cat，dog",
    "cat、dog",
    "cat، dog",
    "cat . dog .",
    "cat . dog",
    '"cat", "dog"',
    "'cat','dog'",
    "“cat”, “dog”",
]


@pytest.mark.promise(32)
@pytest.mark.parametrize("text", [*TWO, "cat\ndog", "cat,\ufeffdog"])
def test_the_commas_of_all_keyboards_separate(text):
    assert Vocabulary.of(text).names == ("cat", "dog")


@pytest.mark.promise(32)
@pytest.mark.parametrize(
    "text", ["cat; dog", "猫；犬", "قط؛ كلب", "cat\tdog", "['cat', 'dog']", '{"cat": 1}', "cat. dog.", '"cat, dog"']
)
def test_text_that_may_mean_several_things_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="separated by commas|enclose"):
        Vocabulary.of(text)
    if "," not in text:
        (tmp_path / "names.txt").write_text(f"boat\n{text}\n", encoding="utf-8")
        with pytest.raises(ValueError, match="separated by commas.*names.txt"):
            Vocabulary.of(tmp_path / "names.txt")


@pytest.mark.parametrize("text", ["St. Bernard, U.S. mailbox", "driver's cab, ladies' bag"])
def test_stops_and_apostrophes_are_letters_of_a_name(text):
    assert ", ".join(Vocabulary.of(text).names) == text


@pytest.mark.promise(32)
def test_a_line_of_a_file_is_one_name_to_whoever_reads_it(tmp_path):
    (tmp_path / "names.txt").write_text("background\nbuilding, edifice\nsky\n")
    assert Vocabulary.of(tmp_path / "names.txt") == Vocabulary.from_file(tmp_path / "names.txt", None)
    assert Vocabulary.of(tmp_path / "names.txt").names == ("building, edifice", "sky")
    (tmp_path / "names.txt").write_text("cat, dog\n")
    for background in (True, False, None):
        with pytest.raises(ValueError, match="one per line.*cat, dog.*names.txt"):
            Vocabulary.from_file(tmp_path / "names.txt", background)


@pytest.mark.promise(32)
@pytest.mark.parametrize(
    "first", ["background", "Background", "_background_", "__background__", "__ignore__\n_background_"]
)
def test_the_background_goes_by_several_names(tmp_path, first):
    (tmp_path / "names.txt").write_text(f"{first}\nboat\n")
    for background in (True, None):
        assert Vocabulary.from_file(tmp_path / "names.txt", background) == Vocabulary.of("boat")


@pytest.mark.promise(32)
@pytest.mark.parametrize(
    "lines", ["boat\nbackground", "boat\n_background_", "__ignore__\nboat", "background\n__ignore__\nboat"]
)
def test_a_background_that_is_no_label_0_is_refused(tmp_path, lines):
    (tmp_path / "names.txt").write_text(lines + "\n")
    for background in (True, None):
        with pytest.raises(ValueError, match="background|ignore"):
            Vocabulary.from_file(tmp_path / "names.txt", background)


@pytest.mark.promise(33)
@given(
    st.text("abc {", max_size=9).filter(lambda t: "{}" not in t + "{}"[:1]),
    st.text("abc ", max_size=9),
    st.sampled_from(["a", "ab", "ca"]),
)
def test_a_prompt_knows_where_its_word_was_put(before, after, word):
    _, prompt, _ = Vocabulary.of([word]).prompts(before + "{}" + after)[0]
    assert prompt == before + word + after and prompt.start == len(before) and type(prompt) is _Prompt


@pytest.mark.promise(33)
@pytest.mark.parametrize("template", ["a photo", "a {} and a {}", ""])
def test_a_template_has_one_place_for_the_word(template):
    with pytest.raises(ValueError, match="once"):
        Vocabulary.of("boat").prompts(template)
