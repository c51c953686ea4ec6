"""The bank: what it holds doesn't depend on batches, order, other classes or interruptions, and what went wrong is
counted."""

import numpy as np, pytest, torch
from tiny import MODELS
import rim.method.references as references
from rim.method.bank import ReferenceBank, _bank_from_references
from rim.method.references import cosine_matrix, k_means, make_references, plan
from rim.method.tools import Tools
from rim.base.settings import Settings
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=3,
        denoising_steps=2,
        subcategories=2,
        synthesis_batch=2,
    )


@pytest.fixture(scope="module")
def tools(tiny):
    return Tools(tiny)


@pytest.fixture(scope="module")
def bank(tiny, tools):
    return ReferenceBank.build("boat, tree", tiny, progress=False, tools=tools)


def with_settings(tools, settings):
    "The same loaded models under other settings."
    other = Tools(settings, tools.proposer, tools.encoder)
    other.pipeline = tools.pipeline
    return other


def test_contents(bank, tiny):
    assert bank.owner.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
    ] and bank.foreground.shape == bank.whole.shape == bank.background.shape == (6, bank.dim)
    assert (
        bank.record["references"] == 6
        and bank.record["dropped"] == 0
        and bank.record["settings"]["images_per_class"] == 3
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_batch_size_does_not_matter(bank, tools, tiny, batch):
    other = ReferenceBank.build(
        "boat, tree", tiny, progress=False, tools=with_settings(tools, tiny.replace(synthesis_batch=batch))
    )
    np.testing.assert_allclose(
        other.foreground, bank.foreground, atol=0.02 * np.abs(bank.foreground).max()
    )  # a pixel may round the other way


def test_order_and_company_do_not_matter(bank, tools, tiny):
    left_over = ReferenceBank.build("tree, moon, boat", tiny, progress=False, tools=tools).subset(
        ["boat", "tree"]
    )  # two of a batch's three images have other company
    np.testing.assert_allclose(left_over.foreground, bank.foreground, atol=0.02 * np.abs(bank.foreground).max())
    full = with_settings(tools, tiny.replace(synthesis_batch=3))
    bank, other = (
        ReferenceBank.build(names, full.settings, progress=False, tools=full).subset(["boat", "tree"])
        for names in ("boat, tree", "tree, moon, boat")
    )
    assert other.digest == bank.digest
    turned = bank.subset(["tree", "boat"])
    a, b = bank.references(tiny), turned.references(tiny)
    np.testing.assert_allclose(a.classes[[0, 2, 1]], b.classes, atol=1e-12)
    assert torch.equal(a.prototypes[a.owner == 0], b.prototypes[b.owner == 0])  # the background too


def test_order_of_arrival_does_not_matter(tools, tiny):
    made = make_references(Vocabulary.of("boat, tree"), tools, progress=False)
    assert (
        _bank_from_references(("boat", "tree"), made).digest
        == _bank_from_references(("boat", "tree"), made[::-1]).digest
    )


def test_synonyms_join_their_class(tiny):
    batches = plan(Vocabulary.of("boat|ship, tree"), tiny)
    assert {(c, word) for batch in batches for c, _, word, _ in batch} == {(0, "boat"), (0, "ship"), (1, "tree")}


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8, 100])
def test_batches_are_full_and_hold_every_picture_once(tiny, batch):
    vocabulary, settings = Vocabulary.of("boat|ship, tree, moon"), tiny.replace(synthesis_batch=batch)
    batches = plan(vocabulary, settings)
    assert [len(b) for b in batches[:-1]] == [batch] * (len(batches) - 1) and 0 < len(batches[-1]) <= batch
    assert sorted(sum(batches, [])) == sorted(
        (c, f"a photo of a {word}", word, k)
        for c, word in ((0, "boat"), (0, "ship"), (1, "tree"), (2, "moon"))
        for k in range(3)
    )
    own = [b for b in batches if len({word for _, _, word, _ in b}) == 1]
    assert sum(map(len, own)) >= 4 * (3 - 3 % batch)


def test_a_batch_is_painted_whole_and_what_was_stored_stays(tiny, tools, tmp_path, monkeypatch):
    "An image's rounding may depend on its batch: so a resumed batch is the interrupted one."
    store, asked, real = Store(tmp_path), [], references.synthesise
    monkeypatch.setattr(
        references,
        "synthesise",
        lambda pipeline, items, settings: asked.append([item[1:] for item in items]) or real(pipeline, items, settings),
    )
    wide = with_settings(tools, tiny.replace(synthesis_batch=100))
    first = ReferenceBank.build("boat, tree", wide.settings, store, False, wide)
    files = {path: path.read_bytes() for path in (tmp_path / "picture").glob("*/*")}
    gone = sorted(files)[0]
    gone.unlink()
    for path in (tmp_path / "reference").glob("*/*"):
        path.unlink()
    again = ReferenceBank.build("boat, tree", wide.settings, store, False, wide)
    assert asked == [[(word, k) for word in ("boat", "tree") for k in range(3)]] * 2
    assert again.digest == first.digest and {path: path.read_bytes() for path in files} == files
    both = ReferenceBank.build("boat, tree, moon", wide.settings, store, False, wide)
    assert len(asked[-1]) == 9 and len(both.owner) == 9 and {path: path.read_bytes() for path in files} == files


def test_stored_and_found_again(bank, tiny, tools, tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = ReferenceBank.build("boat, tree", tiny, store, False, tools)
    monkeypatch.setattr(references, "synthesise", None)
    monkeypatch.setattr(references, "describe_reference", None)
    assert (
        ReferenceBank.build("tree, boat", tiny, store, False, Tools(tiny)).subset(["boat", "tree"]).digest
        == first.digest
        == bank.digest
    )


def test_interrupted_and_resumed(bank, tiny, tools, tmp_path, monkeypatch):
    store, calls, real = Store(tmp_path), [], references.describe_reference

    def stops(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(references, "describe_reference", stops)
    with pytest.raises(KeyboardInterrupt, match="2 of 6 references are done; the same call goes on"):
        ReferenceBank.build("boat, tree", tiny, store, False, tools)
    resumed = ReferenceBank.build("boat, tree", tiny, store, False, tools)
    assert len(calls) == 7 and resumed.digest == bank.digest  # three before, one interrupted, three after


def test_damaged_entry_is_made_again(bank, tiny, tools, tmp_path):
    store = Store(tmp_path)
    ReferenceBank.build("boat, tree", tiny, store, False, tools)
    path = next((tmp_path / "reference").glob("*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged"):
        again = ReferenceBank.build("boat, tree", tiny, store, False, tools)
    assert again.digest == bank.digest


MISSES = dict(
    seed=1,
    image_size=128,
    denoising_steps=3,
    guidance=2.0,
    degenerate_std=1.0,
    redraws=1,
    attention_resolutions="8",
    attention_threshold=0.6,
    attention_points=4,
    attention_top=0.1,
    mask_min_area=0.1,
    mask_max_area=0.9,
    reference_side=128,
)
HITS = dict(
    synthesis_batch=7,
    images_per_class=9,
    subcategories=3,
    background_subcategories=3,
    agents=2,
    region_side=64,
    points_per_side=9,
    box_nms_thresh=0.5,
    painting="score",
    bootstrap=5,
    points_per_batch=3,
    clip_side=32,
    centring="bank",
)


@pytest.mark.parametrize("name", [*MISSES, *HITS])
def test_keys_hold_what_matters_and_no_more(tiny, tools, name):
    changed = Tools(tiny.replace(**{name: (MISSES | HITS)[name]}))
    same = (changed.painting_key, changed.masking_key) == (tools.painting_key, tools.masking_key)
    assert same == (name in HITS)


def test_another_threshold_needs_no_new_pictures(tiny, tools, tmp_path, monkeypatch):
    store = Store(tmp_path)
    ReferenceBank.build("boat", tiny, store, False, tools)
    monkeypatch.setattr(references, "synthesise", None)
    ReferenceBank.build(
        "boat",
        tiny.replace(attention_threshold=0.5),
        store,
        False,
        with_settings(tools, tiny.replace(attention_threshold=0.5)),
    )
    assert len(list((tmp_path / "picture").glob("*/*"))) == 3 and len(list((tmp_path / "reference").glob("*/*"))) == 6


def test_another_encoder_needs_no_new_masks(tiny, tools, tmp_path, monkeypatch):
    store, other = Store(tmp_path), tiny.replace(reference_side=128)
    ReferenceBank.build("boat", tiny, store, False, tools)
    monkeypatch.setattr(references, "synthesise", None)
    monkeypatch.setattr(references, "foreground_mask", None)
    kept = ReferenceBank.build("boat", other, store, False, Tools(other))
    monkeypatch.undo()
    assert kept.digest == ReferenceBank.build("boat", other, None, False, Tools(other)).digest


def made(vectors, record={}, c=0):
    thumbs = {
        part: np.zeros((64, 64, 3) if part == "image" else (64, 64), np.uint8)
        for part in ("image", "mask", "attention")
    }
    return [
        (
            c,
            "boat",
            k,
            {"foreground": np.float32(v), "background": np.float32(v), "whole": np.float32(v), **thumbs},
            {"mask": "sam", **record},
        )
        for k, v in enumerate(vectors)
    ]


def test_unusable_pictures_are_dropped_and_counted(tiny):
    entries = (
        made([[1, 0], [np.nan, 0]])
        + [(*m[:2], 9, *m[3:]) for m in made([[5, 5]], {"degenerate": True})]
        + [(*m[:2], 8, *m[3:]) for m in made([[3, 0]], {"mask": "attention", "redraws": 2})]
    )
    bank = _bank_from_references(["boat"], entries)
    assert (
        bank.record["dropped"] == 2
        and bank.record["dropped_of"] == {"boat": 2}
        and bank.record["fallbacks"] == 1
        and bank.record["redraws"] == 2
    )
    assert bank.references(tiny, subcategories=False).classes[1].tolist() == [2, 0]


def test_class_without_references_is_an_error():
    with pytest.raises(ValueError, match="'tree' has none"):
        _bank_from_references(["boat", "tree"], made([[1, 0]]))


def test_masks_that_leave_no_background(tiny):
    entries = made([[1, 0], [0, 1]])
    entries[0][3]["background"] = np.float32([np.nan, np.nan])
    assert _bank_from_references(["boat"], entries).references(tiny, subcategories=False).classes[0].tolist() == [0, 1]
    entries[1][3]["background"] = np.float32([np.nan, np.nan])
    with pytest.raises(ValueError, match="background"):
        _bank_from_references(["boat"], entries).references(tiny)


def test_subcategories(bank, tiny):
    found = bank.references(tiny)
    assert found.owner.tolist() == [0, 1, 1, 2, 2] and found.subcategories == 2  # the toybox's background has one
    assert bank.references(tiny.replace(background_subcategories=3)).owner.tolist() == [0, 0, 0, 1, 1, 2, 2]
    more = bank.references(tiny.replace(subcategories=8))
    assert (more.owner == 1).sum() == 3 and more.subcategories == 8  # three images give at most three
    one = bank.references(tiny, subcategories=False)
    assert torch.equal(one.prototypes, one.classes) and one.subcategories == 1
    assert bank.references(tiny, background=False).classes.shape[0] == 2


def test_kinds_share_their_background(bank, tiny):
    whole, foreground = bank.references(tiny, "whole"), bank.references(tiny, "foreground")
    assert torch.equal(whole.classes[0], foreground.classes[0]) and not torch.equal(
        whole.classes[1], foreground.classes[1]
    )
    with pytest.raises(ValueError, match="whole"):
        bank.references(tiny, "half")


def test_centring(bank, tiny):
    plain, centred = bank.references(tiny), bank.references(tiny.replace(centring="bank"))
    assert torch.allclose(centred.classes.mean(0), torch.zeros(bank.dim).double(), atol=1e-12)
    assert torch.allclose(centred.classes + centred.centre, plain.classes) and torch.allclose(
        centred.prototypes + centred.centre, plain.prototypes
    )


def test_k_means():
    points = np.array([[0, 0], [0, 0], [0, 1], [9, 9]], np.float32)
    assert k_means(points, 8, 0).shape == (3, 2)
    np.testing.assert_allclose(k_means(points, 2, 0), [[0, 1 / 3], [9, 9]], atol=1e-6)


def test_cosine_matrix(rng):
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    naive = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    np.testing.assert_allclose(cosine_matrix(torch.tensor(a), torch.tensor(b)), naive, atol=1e-12)


def test_file(bank, tmp_path):
    loaded = ReferenceBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert (
        loaded.digest == bank.digest
        and loaded.names == bank.names
        and loaded.record == bank.record
        and (loaded.thumbnails["image"] == bank.thumbnails["image"]).all()
    )


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b"x" * 100, lambda b: b[:-3] + bytes([b[-3] ^ 255]) + b[-2:]]
)
def test_damaged_file(bank, tmp_path, damage):
    path = bank.save(tmp_path / "bank.safetensors")
    data = path.read_bytes()
    i = data.rfind(bank.whole.tobytes())  # the last byte may belong to a thumbnail: damage a vector
    path.write_bytes(
        damage(data) if len(damage(data)) != len(data) else data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :]
    )
    with pytest.raises(ValueError, match="bank.safetensors"):
        ReferenceBank.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no reference bank"):
        ReferenceBank.load(tmp_path / "bank")


def test_subset_and_merge(bank, tiny):
    boat, tree = bank.subset(["boat"]), bank.subset(["tree"])
    assert (
        boat.merge(tree).digest == bank.digest
        and len(boat.merge(boat).owner) == 6
        and boat.merge(boat).names == ("boat",)
    )
    assert (
        boat.merge(tree).merge(boat).record["sources"] == {"diffusion": 9}
        and boat.merge(tree).record["source"] == "diffusion"
    )
    with pytest.raises(ValueError, match="got sofa"):
        bank.subset(["sofa"])
    with pytest.raises(ValueError, match="one encoder"):
        boat.merge(_bank_from_references(["x"], made([[1, 0]])))


def test_contact_sheet(bank):
    assert (
        bank.contact_sheet().size == bank.contact_sheet("attention").size
        and bank.contact_sheet().height == 2 * 66
        and bank._repr_html_().count("<img") == 2
    )


def test_word_that_is_cut_off_is_refused_before_painting(tiny, tools, monkeypatch):
    monkeypatch.setattr(references, "synthesise", None)
    other = with_settings(tools, tiny)
    with pytest.raises(ValueError, match="cut off"):
        ReferenceBank.build(["boat", "x" * 200], tiny, None, False, other)


def test_unknown_feature(tiny):
    with pytest.raises(ValueError, match="feature must be"):
        Tools(tiny.replace(feature="nose"))


@pytest.mark.promise(37)
def test_a_class_of_a_bank_goes_by_its_name_or_a_synonym_whatever_the_capitals():
    facts = {"synonyms": {"Apple": ["fruit"]}}
    bank = _bank_from_references(("Apple", "balloon"), made([[1, 0]]) + made([[0, 1]], c=1), facts)
    for word in ("Apple", "apple", "FRUIT"):
        part = bank.subset([word])
        assert part.names == (word,) and part.owner.tolist() == [0] and part.subset(["fruit"]).names == ("fruit",)
        assert part.subset(["apple"]).names == ("apple",)
    assert bank.subset(Vocabulary.of("Balloon, pome|apple")).names == ("Balloon", "pome")
    with pytest.raises(ValueError, match="different classes.*apple, fruit are its class 'Apple'"):
        bank.subset(["apple", "fruit"])
    with pytest.raises(ValueError, match="Apple, balloon.*got pear"):
        bank.subset(["pear"])
    joined = bank.merge(_bank_from_references(("fruit", "pear"), made([[1, 0]]) + made([[0, 1]], c=1)))
    assert joined.names == ("Apple", "balloon", "pear") and joined.owner.tolist() == [0, 0, 1, 2]
    assert joined.record["synonyms"] == {"Apple": ["fruit"]}


@pytest.mark.promise(37)
def test_a_bank_remembers_synonyms_in_its_file(tiny, tools, tmp_path):
    built = ReferenceBank.build("tree|oak, boat", tiny, progress=False, tools=tools)
    again = ReferenceBank.load(built.save(tmp_path / "bank.safetensors"))
    assert again.index("OAK") == again.index("Tree") == 0 and again.index("moon") == -1
