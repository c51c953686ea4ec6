"""References from one's own photographs: what the folder says is checked first, what is damaged is named, and only
content counts."""

import shutil
import numpy as np, pytest
from PIL import Image
from tiny import MODELS
import rim.method.photographs as photographs
from rim.method.photographs import MASK, _find_mask, photographs_in
from rim.method.bank import ReferenceBank, _bank_from_references
from rim.method.references import make_references
from rim.method.tools import Tools
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=2,
        denoising_steps=2,
    )


@pytest.fixture(scope="module")
def tools(tiny):
    return Tools(tiny)


@pytest.fixture
def folder(tmp_path, tiny_image):
    "Two cats, two dogs."
    for name in ("cat", "dog"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.roll(tiny_image, k + 3 * (name == "dog"), 1)).save(tmp_path / "mine" / name / f"{k}.png")
    return tmp_path / "mine"


def build(folder, tiny, tools, store=None, **more):
    return ReferenceBank.from_photographs(folder, tiny, store, False, tools, **more)


def test_folders_are_classes(folder, tiny, tools):
    bank = build(folder, tiny, tools)
    assert bank.names == ("cat", "dog") and bank.owner.tolist() == [0, 0, 1, 1]
    assert (
        bank.record["source"] == "photographs"
        and bank.record["left_out"] == {}
        and sum(bank.record["masks"].values()) == 4
    )


def test_synonyms_and_order_come_from_the_vocabulary(folder, tiny, tools):
    words = Vocabulary.parse("dog|hound, pussy|Cat")
    bank = build(folder, tiny, tools, vocabulary=words)
    assert bank.names == ("dog", "pussy") and (bank.foreground[2:] == build(folder, tiny, tools).foreground[:2]).all()
    (folder / "cow").mkdir()
    with pytest.raises(ValueError, match="'cow' is none of dog, pussy"):
        photographs_in(folder, words)


def test_only_content_counts(folder, tiny, tools):
    first = build(folder, tiny, tools)
    (folder / "dog" / "0.png").rename(folder / "dog" / "another.name.png")
    (folder / "cat").rename(folder / "zebra")
    again = build(folder, tiny, tools)
    assert {v.tobytes() for v in again.foreground} == {v.tobytes() for v in first.foreground}


def test_given_masks(folder, tiny, tools):
    mask = np.zeros((24, 32), np.uint8)
    mask[6:16, 8:20] = 1
    Image.fromarray(mask).save(folder / f"cat/0{MASK}")
    photo = photographs_in(folder)["cat"][0]
    found, how, _ = _find_mask(photo, np.asarray(Image.open(photo.path)), tools, 0)
    assert how == "given" and (found == (mask == 1)).all()
    assert build(folder, tiny, tools).record["masks"]["given"] == 1
    Image.fromarray(mask * 0).save(folder / f"cat/0{MASK}")
    record = build(folder, tiny, tools).record
    assert record["dropped"] == 1 and record["dropped_of"] == {"cat": 1}


def test_clicks_are_where_sam_is_asked(folder, tiny, tools, monkeypatch):
    asked = []

    def foreground(image, points):
        asked.append(points.tolist())
        return np.pad(np.ones((8, 8), bool), 8)[:24, :], 0.9

    monkeypatch.setattr(tools.proposer, "foreground", foreground)
    (folder / "cat" / "clicks.csv").write_text("\ufefffile,x,y\n1.png,3,4\n1.png,5.5,6\n", encoding="utf-8")
    photo = photographs_in(folder)["cat"][1]
    mask, how, attention = _find_mask(photo, np.zeros((24, 24, 3), np.uint8), tools, 0)
    assert (
        asked == [[[3, 4], [5.5, 6]]] and how == "click" and mask.mean() == 64 / 576 and attention.argmax() // 32 < 12
    )
    monkeypatch.setattr(tools.proposer, "foreground", lambda image, points: (np.ones(image.shape[:2], bool), 0.9))
    mask, how, _ = _find_mask(photo, np.zeros((24, 24, 3), np.uint8), tools, 0)
    assert how == "attention" and mask[4, 4] and not mask[20, 20]


def test_a_turned_photograph_counts_as_it_is_seen(folder, tiny, tools):
    turned = Image.new("RGB", (30, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "cat/phone.jpg", exif=exif)
    Image.new("L", (20, 30), 1).save(folder / f"cat/phone{MASK}")
    assert not photographs_in(folder)["cat"][-1].fault
    Image.new("L", (30, 20), 1).save(folder / f"cat/phone{MASK}")
    with pytest.raises(ValueError, match="phone.jpg is 20 x 30, .*phone.mask.png is 30 x 20"):
        photographs_in(folder)


@pytest.mark.parametrize(
    "text, named",
    [
        ("a,b\n1,2\n", "columns file, x and y"),
        ("file,x,y\n0.png,left,2\n", "left"),
        ("file,x,y\n0.png,1\n", "0.png"),
        ("file,x,y\n0.png,32,2\n", "32 x 24"),
        ("file,x,y\n0.png,nan,2\n", "nan"),
        ("file,x,y\nother.png,1,2\n", "other.png"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_bad_clicks(folder, text, named):
    (folder / "cat" / "clicks.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        photographs_in(folder)


def test_a_mask_without_its_photograph(folder):
    Image.new("L", (32, 24)).save(folder / f"cat/nine{MASK}")
    with pytest.raises(FileNotFoundError, match="nine.mask.png"):
        photographs_in(folder)


def test_a_colour_mask_is_refused(folder, tiny, tools):
    Image.new("RGB", (32, 24)).save(folder / f"cat/0{MASK}")
    with pytest.raises(ValueError, match="0.mask.png is RGB"):
        build(folder, tiny, tools)


def test_damaged_photographs_are_named_and_counted(folder, tiny, tools):
    (folder / "dog" / "bad.jpg").write_bytes(b"no picture")
    (folder / "dog" / "half.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:-400])
    with pytest.warns(UserWarning, match="2 of 6 photographs .*bad.jpg.*half.png"):
        bank = build(folder, tiny, tools)
    assert (
        set(bank.record["left_out"]) == {"dog/bad.jpg", "dog/half.png"}
        and bank.record["dropped_of"] == {"dog": 2}
        and len(bank.owner) == 4
    )
    for name in ("0", "1"):
        (folder / "dog" / f"{name}.png").unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="'dog' has none of 2"):
        build(folder, tiny, tools)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: [shutil.rmtree(d) for d in f.iterdir()], "has none"),
        (lambda f: (f / "dog").rename(f / "Cat"), "named once"),
        (lambda f: (f / "dog").rename(f / "background"), "background"),
        (lambda f: (f / "ox").mkdir(), "'ox' has none of 0"),
    ],
)
def test_bad_folders(folder, tiny, tools, make, named):
    make(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        build(folder, tiny, tools)


def test_stored_and_found_again(folder, tiny, tools, tmp_path, monkeypatch):
    store, real, calls = Store(tmp_path / "store"), photographs.describe_reference, []

    def stops(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(photographs, "describe_reference", stops)
    with pytest.raises(KeyboardInterrupt):
        build(folder, tiny, tools, store)
    resumed = build(folder, tiny, tools, store)
    assert (
        len(calls) == 5 and resumed.digest == build(folder, tiny, tools).digest
    )  # two before, one interrupted, two after, four without a store
    calls.clear()
    calls += [0] * 9
    assert build(folder, tiny, tools, store).digest == resumed.digest and len(calls) == 9
    (folder / "cat" / "clicks.csv").write_text("file,x,y\n0.png,3,4\n")
    build(folder, tiny, tools, store)
    assert len(calls) == 10, "a click makes one reference anew"


def test_merged_with_painted_ones(folder, tiny, tools):
    mine = build(folder, tiny, tools)
    painted = _bank_from_references(
        ("dog", "tree"),
        make_references(Vocabulary.of("dog, tree"), tools, progress=False),
        {"source": "diffusion", "encoder": tools.masking_key["encoder"]},
    )
    both = painted.merge(mine)
    assert both.names == ("dog", "tree", "cat") and both.owner.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert (
        both.record["sources"] == {"diffusion": 4, "photographs": 4}
        and both.record["source"] == "diffusion + photographs"
        and both.record["masks"] == mine.record["masks"]
    )
    assert ReferenceBank.load(both.save(folder / "bank")).record["sources"] == both.record["sources"]


@pytest.mark.weights
def test_portraits_segment_scenes(tmp_path):
    from rim.method.segmenter import RIM
    from rim.toybox.world import World

    world, settings = World(), Settings.from_profile("toybox")
    for name in world.names:
        (tmp_path / name).mkdir()
        for seed in range(3):
            Image.fromarray(world.portrait(name, seed).image).save(tmp_path / name / f"{seed}.png")
    rim = RIM(settings)
    bank = ReferenceBank.from_photographs(tmp_path, settings, None, False, rim.tools).subset(world.names)
    scenes = [world.scene(seed) for seed in world.seeds("validation", 4)]
    found = RIM(settings, rim.tools.proposer, bank=bank)
    assert np.mean([(found.segment(s.image).labels == s.labels).mean() for s in scenes]) > 0.8


def masked(folder, name):
    "A mask of this name beside the cats."
    Image.fromarray(np.full((24, 32), 255, np.uint8)).save(folder / "cat" / name, "PNG")
    return photographs_in(folder)["cat"]


@pytest.mark.promise(37)
@pytest.mark.parametrize("ending", [".mask.PNG", ".Mask.png", ".MASK.PNG"])
def test_capitals_in_the_ending_of_a_mask_do_not_matter(folder, ending):
    (folder / "cat/0.png").rename(folder / "cat/0.PNG")
    found = masked(folder, f"0{ending}")
    assert (
        [p.path.name for p in found] == ["0.PNG", "1.png"] and found[0].mask.name == f"0{ending}" and not found[1].mask
    )


@pytest.mark.promise(37)
@pytest.mark.parametrize("name", ["0_mask.png", "0-mask.png", "0 Mask.jpg", "0.mask.jpg", "0_masks.png", "0.mask.tif"])
def test_a_mask_of_another_spelling_is_no_photograph(folder, name):
    with pytest.raises(ValueError, match="named like its photograph, as 0.mask.png"):
        masked(folder, name)


@pytest.mark.parametrize("name", ["unmask.png", "mask.png", "2_mask.png", "face mask.png"])
def test_a_word_in_a_photograph_s_name_makes_it_no_mask(folder, name):
    assert name in [p.path.name for p in masked(folder, name)]


@pytest.mark.promise(37)
def test_masks_and_clicks_find_their_photograph_in_both_spellings_of_an_accent(folder):
    (folder / "cat/0.png").rename(folder / "cat/caf\u00e9.png")
    (folder / "cat/1.png").rename(folder / "cat/nin\u0303o.png")
    (folder / "cat/Clicks.CSV").write_text("file,x,y\nni\u00f1o.png,3,4\n", encoding="utf-8")
    found = {len(p.path.stem): p for p in masked(folder, "cafe\u0301.mask.png")}
    assert found[4].mask and found[5].clicks == ((3.0, 4.0),)
