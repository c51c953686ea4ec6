"""Corrections: in their own image, in the bank, on the disk; the queue's order, and what the commands say."""

import json, re, shutil, tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings as budget, strategies as st
from PIL import Image
from rim.apps.cli import main
from rim.apps.arguments import _relative_path
from rim.apps.loop import Review, _change_between
from rim.apps.review import _doubts_of
from rim.method.bank import ReferenceBank
from rim.method.corrections import Correction, correct_bank, correction_vectors, known_name, point_at
from rim.method.deciding import _origin_of
from rim.method.prototypes import _negatives_of
from rim.method.segmentation import Segmentation
from rim.method.vocabulary import Vocabulary
from test_confidence import scene
from test_matcher import bank_of

WORDS = Vocabulary(("thing 0", "thing 1", "thing 2"))


def correction(name, seed=0, image="a.jpg"):
    mask = np.zeros((8, 8), bool)
    mask[seed % 5 : seed % 5 + 3, 1:5] = True
    return Correction(image, name, mask, ((1, seed % 5),))


@budget(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["thing 1", "background", "lamp"]), min_size=1, max_size=4), st.integers(0, 9))
def test_a_bank_with_corrections_has_them_and_keeps_the_rest(names, seed):
    bank, rng = bank_of(seed), np.random.default_rng(seed)
    made = [correction(name, i) for i, name in enumerate(names)]
    vectors = [(rng.normal(size=8).astype(np.float32), rng.normal(size=8).astype(np.float32)) for _ in made]
    more = correct_bank(bank, made, vectors)
    things = [i for i, name in enumerate(names) if name != "background"]
    assert len(more.owner) == len(bank.owner) + len(things) == more.record["references"]
    assert (np.diff(more.owner) >= 0).all() and more.names[:3] == bank.names
    for i, name in enumerate(names):
        held = _negatives_of(more) if name == "background" else more.foreground[more.owner == more.names.index(name)]
        assert (held == vectors[i][0]).all(1).sum() == 1
        assert more.record["corrections"][i] == made[i].provenance
    for k, name in enumerate(bank.names):
        old, new = bank.foreground[bank.owner == k], more.foreground[more.owner == k]
        assert (new[len(new) - len(old) :] == old).all(), "corrections come first"
    before = bank.background[np.isfinite(bank.background).all(1)]
    assert (_negatives_of(more)[len(_negatives_of(more)) - len(before) :] == before).all()
    rows = [(_origin_of(more, r), more.foreground[r]) for r in range(len(more.owner))]
    for i in things:
        assert any(o == made[i].provenance and (v == vectors[i][0]).all() for o, v in rows)


@pytest.mark.promise(62)
def test_a_corrected_bank_is_read_as_it_was_written_and_cut_with_its_provenance(tmp_path):
    bank = bank_of(1)
    shown = {**bank.thumbnails, "attention": bank.thumbnails["mask"]}
    bank = replace(bank, record={"encoder": {"name": "x"}, "source": "photographs"}, thumbnails=shown, memory={})
    vector = np.ones(8, np.float32), np.zeros(8, np.float32)
    more = correct_bank(bank, [correction("lamp"), correction("background", 2)], [vector, vector])
    more.save(tmp_path / "bank.safetensors")
    again = ReferenceBank.load(tmp_path / "bank.safetensors")
    assert again.digest == more.digest and again.record["corrections"] == more.record["corrections"]
    lamp = again.subset(["lamp"])
    assert _origin_of(lamp, 0) == "corrected lamp, a.jpg at 1,0"
    assert _origin_of(again, 0, negative=True) == "corrected background, a.jpg at 1,2"


def test_a_region_without_a_patch_is_no_reference():
    _, regions, bank, _ = scene(1)
    assert np.isnan(correction_vectors(regions, np.zeros((8, 8), bool))[0]).all()
    found = correct_bank(bank, [correction("lamp")], [(np.full(8, np.nan), np.zeros(8))])
    assert found.names == bank.names and "correction" not in found.extra


def test_a_vector_of_a_region_is_the_one_that_it_is_matched_by():
    from rim.method.regions import _describe

    _, regions, _, _ = scene(2)
    known = _describe(regions.proposals, regions.grid)
    for mask, feature in zip(regions.proposals.masks, known.features):
        assert np.allclose(correction_vectors(known, mask)[0], feature.numpy(), atol=1e-5)


@budget(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 63))
def test_a_pointed_region_is_the_one_that_is_seen_and_wins_in_its_image(seed, pixel):
    matcher, regions, bank, _ = scene(seed)
    result = matcher.predict(np.zeros((8, 8, 3), np.uint8), regions, WORDS, bank)
    x, y = pixel % 8, pixel // 8
    if result.region_map[y, x] < 0:
        with pytest.raises(ValueError, match="no region is seen"):
            point_at(result, [(x, y)], "thing 1")
        return
    c = point_at(result, [(x, y)], "THING 1", "a.jpg")
    assert c.name == "thing 1" and c.was == WORDS.labels[result.labels[y, x]]
    mended = result.apply_corrections([c])
    assert (mended.labels[c.mask] == 2).all() and (mended.labels == result.labels)[~c.mask].all()
    assert (mended.confidence[c.mask] == 1).all() and mended.region_map[y, x] == len(mended.regions) - 1
    assert Correction.of(json.loads(json.dumps(c.as_dict()))).as_dict() == c.as_dict()


def test_names_are_those_of_the_vocabulary_or_new():
    words = Vocabulary(("sofa",), {"sofa": ("couch",)})
    assert [known_name(n, words) for n in ("Couch", " SOFA", "Background", "lamp")] == [
        "sofa",
        "sofa",
        "background",
        "lamp",
    ]


def test_points_become_a_region_by_sam():
    class Sam:
        def foreground(self, image, points):
            assert points.tolist() == [[1.0, 2.0], [3.0, 2.0]]
            return np.eye(8) > 0, 0.9

    c = point_at(
        Segmentation(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), int), WORDS), [(1, 2), (3, 2)], "lamp", "b", Sam()
    )
    assert c.how == "points" and c.mask.sum() == 8 and c.was == "background"
    with pytest.raises(ValueError, match="must lie in the image"):
        point_at(Segmentation(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), int), WORDS), [(8, 2)], "lamp")


@given(st.integers(0, 99))
def test_changes_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    a, b, names = rng.integers(0, 3, (4, 5)), rng.integers(0, 4, (4, 5)), ("background", "x", "y")
    a[0, 0], b[-1, -1] = 254, 254
    change = _change_between("f", a, b, names, (*names, "z"))
    name = lambda v, table: "unknown" if v == 254 else table[v]
    pairs = [(name(v, names), name(w, (*names, "z"))) for v, w in zip(a.flat, b.flat)]
    for before, now, share in change.moves:
        assert before != now and share == pytest.approx(pairs.count((before, now)) / 20)
    assert change.share == pytest.approx(sum(p != q for p, q in pairs) / 20)


@given(st.integers(1, 4), st.integers(0, 99))
def test_the_queue_asks_first_what_an_answer_is_worth_most_for(images, seed):
    rng, place = np.random.default_rng(seed), Path(tempfile.mkdtemp())
    review, rows = Review.__new__(Review), []
    review.folder, review.skipped, review.session = place, [], {"images": [f"{i}.png" for i in range(images)]}
    for i in range(images):
        regions = [
            {"class": "abc"[c], "ranking": {"a": 1}, "confidence": float(p), "visible": int(v), "at": [j, 0]}
            for j, (c, p, v) in enumerate(zip(rng.integers(0, 3, 5), rng.uniform(size=5), rng.integers(1, 21, 5)))
        ]
        (place / f"{i}.json").write_text(json.dumps({"size": [10, 10], "regions": regions}))
        rows += [(r["class"], (1 - r["confidence"]) * r["visible"], r["visible"], i, r["at"][0]) for r in regions]
    area = {name: sum(r[2] for r in rows if r[0] == name) for name in "abc"}
    expected = sorted(rows, key=lambda r: -r[1] / (area[r[0]] + images))  # one pixel in a hundred, of each image
    assert [(f"{r[3]}.png", (r[4], 0)) for r in expected] == [(d.image, d.at) for d in review.queue()]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), max_size=8))
def test_the_queue_is_ordered_by_the_wrong_pixels_to_be_expected(rows):
    regions = [
        {"class": "a", "ranking": {"a": 1}, "confidence": p, "visible": v, **({"at": [i, 0]} if v else {})}
        for i, (p, v) in enumerate(rows)
    ]
    doubts = _doubts_of("f", {"size": [10, 10], "regions": regions})
    assert len(doubts) == sum(p < 1 and v > 0 for p, v in rows)
    assert [d.doubt for d in doubts] == sorted((d.doubt for d in doubts), reverse=True)
    assert all(d.doubt == pytest.approx((1 - d.confidence) * d.visible) for d in doubts)
    passed = [["f", *doubts[0].at]] if doubts else []
    assert _doubts_of("f", {"size": [10, 10], "regions": regions}, passed) == doubts[1:]


@pytest.mark.promise(53)
def test_paths_in_a_session_name_no_user(tmp_path, monkeypatch):
    home = tmp_path / "home/anna"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert _relative_path(home / "photos/a.jpg", home / "out") == "../photos/a.jpg"
    assert _relative_path(home / "photos/a.jpg", tmp_path / "out") == ""
    assert _relative_path("/usr/a.jpg", home / "out") == ""
    assert _relative_path(tmp_path / "data/a.jpg", tmp_path / "data/out") == "../a.jpg"


@pytest.fixture(scope="module")
def world():
    from rim.toybox.world import World

    return World()


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, world):
    "Two scenes, segmented, with names that lack some of their classes; and the store."
    folder = tmp_path_factory.mktemp("segmented")
    for seed in (13, 14):
        Image.fromarray(world.scene(seed).image).save(folder / f"s{seed}.png")
    names = ", ".join(dict.fromkeys(o.name for o in world.scene(13).objects))
    words = ["segment", str(folder / "s13.png"), str(folder / "s14.png"), "--classes", names, "--keep"]
    assert main([*words, "--set", f"store={folder / 'store'}", "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def results(tmp_path, segmented):
    "Results of one's own."
    shutil.copytree(segmented, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RIM_STORE", str(tmp_path / "store"))


def test_from_doubt_to_names_given_again(results, capsys, world):
    review = Review(results)
    assert str(results.parent) not in (results / "session.rim").read_text() and len(review) == 2
    first = review.queue()[0]
    assert main(["queue", str(results)]) == 0
    page = (results / "queue.html").read_text()
    assert page.count("<article") == len(review.queue()) and "http" not in page and "data:image/jpeg" in page
    at = f"{first.at[0]},{first.at[1]}"
    assert main(["correct", str(results), first.image, "--at", at, "--name", "lantern"]) == 0
    assert "named again" in capsys.readouterr().out
    facts = json.loads((results / first.image.replace(".png", ".json")).read_text())
    labels = np.asarray(Image.open(results / first.image))
    assert facts["names"][-1] == "lantern" and facts["names"][labels[first.at[1], first.at[0]]] == "lantern"
    bank = ReferenceBank.load(results / "bank.safetensors")
    assert bank.names[-1] == "lantern" and bank.record["corrections"] == [f"corrected lantern, {first.image} at {at}"]
    assert (first.image, first.at) not in [(d.image, d.at) for d in Review(results).queue()], "it isn't asked again"
    assert main(["explain", str(results), first.image, "--at", at, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["references"][0]["origin"] == f"corrected lantern, {first.image} at {at}"
    assert said["references"][0]["without"] != "lantern"


def test_what_a_person_said_decides_in_its_image(results, capsys):
    review = Review(results)
    for n, (doubt, name) in enumerate(zip(review.queue()[:2], ("lantern", "background"))):
        picture, (x, y) = review.picture(doubt.image), doubt.at
        before = review.stored_result(picture)
        said = review.correct(doubt.image, [doubt.at], name)
        decided = review.decision(picture, x, y)
        assert (decided.name, decided.unknown, decided.confidence, len(decided.references)) == (name, False, 1, 1)
        part = decided.references[0]
        assert (part.origin, part.weight, part.row >= 0) == (said.provenance, 1, True)
        if not n:  # the only one: without it the references are those of the first naming
            assert part.without == before.vocabulary.labels[before.labels[y, x]]
        assert main(["explain", str(results), doubt.image, "--at", f"{x},{y}"]) == 0
        shown = capsys.readouterr().out
        assert f"{doubt.image} at {x},{y}: {name} before" in shown and said.provenance in shown


def test_a_store_that_lacks_the_regions_is_told_and_can_be_named(results, capsys, monkeypatch, tmp_path):
    first, kept = Review(results).queue()[0], str(tmp_path / "store")
    words = ["correct", str(results), first.image, "--at", f"{first.at[0]},{first.at[1]}", "--name", "boat"]
    monkeypatch.setenv("RIM_STORE", str(tmp_path / "another"))
    assert main([*words, "--set", f"store={kept}"]) == 0 and "lacks" not in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.count(f"the store {tmp_path / 'another'} lacks regions of {results}") == 1 and "RIM_STORE" in said
    assert main(words) == 0 and "lacks" not in capsys.readouterr().err, "they are kept now"


def test_labels_are_handed_on_from_where_the_images_lie(results, capsys, tmp_path):
    assert main(["export", str(results), "--to", "coco", "--out", str(tmp_path / "coco")]) == 0
    facts = json.loads((tmp_path / "coco/annotations/instances_default.json").read_text())
    assert [i["file_name"] for i in facts["images"]] == ["s13.png", "s14.png"]
    session = json.loads((results / "session.rim").read_text())
    places = {"s13.png": "../a/s13.png", "s14.png": "../b/s14.png"}
    refused = (places, "one folder above all images"), ({"s13.png": ""}, "doesn't say where its images lie")
    for images, rule in refused:
        (results / "session.rim").write_text(json.dumps({**session, "images": images}))
        assert main(["export", str(results), "--to", "coco", "--out", str(tmp_path / "none")]) == 2
        assert rule in capsys.readouterr().err and not (tmp_path / "none").exists()
    (results / "session.rim").unlink()
    assert main(["export-dataset", str(results), "--layout", "transformers", "--out", str(tmp_path / "none")]) == 2
    assert "doesn't say where its images lie" in capsys.readouterr().err


@pytest.mark.promise(62)
def test_results_with_corrections_are_not_overwritten_by_the_way(results, capsys):
    review = Review(results)
    first = review.queue()[0]
    review.correct(first.image, [first.at], "lantern")
    review.again()
    before = (results / first.image).read_bytes()
    words = ["segment", *(str(results.parent / f) for f in review.session["images"]), "--out", str(results)]
    assert main([*words, "--classes", "boat"]) == 2 and "holds corrections" in capsys.readouterr().err
    assert main([*words, "--bank", str(results / "bank.safetensors")]) == 0
    assert capsys.readouterr().out.count("done before") == 2 and (results / first.image).read_bytes() == before


@pytest.mark.promise(62)
def test_keys_answers_and_what_is_skipped_are_kept(results):
    review = Review(results)
    doubts, lines = review.queue(), iter(["s", "", "2", "q"])
    assert review.ask(read=lambda text: next(lines), say=lambda text: None) == 2
    kept = Review(results)
    assert [c.how for c in kept.corrections][0] == "confirmed" and kept.corrections[1].name == doubts[2].choices[1]
    assert kept.skipped == [[doubts[0].image, *doubts[0].at]]
    kept.again()
    assert doubts[0] not in kept.queue()
    answers = results / "answers.json"
    at = kept.queue()[0]
    answers.write_text(json.dumps([{"image": at.image, "at": list(at.at), "name": "background"}]))
    assert main(["correct", str(results), "--answers", str(answers)]) == 0
    assert Review(results).corrections[-1].name == "background"


def test_a_new_name_that_the_package_knows_has_the_shipped_references_too(results, world):
    review = Review(results)
    new = next(name for name in world.names if name not in review.names)
    per_class = review.segmenter.settings.images_per_class
    doubts = review.queue()
    review.correct(doubts[0].image, [doubts[0].at], "lantern")
    review.correct(doubts[1].image, [doubts[1].at], new)
    bank = review.bank()
    assert bank.names == review.names == (*review.session["names"], "lantern", new)
    assert np.bincount(bank.owner)[-2:].tolist() == [1, per_class + 1]
    assert bank.record["corrections"] == [c.provenance for c in review.corrections]
    assert _origin_of(bank, int(np.flatnonzero(bank.owner == len(bank) - 1)[0])) == review.corrections[1].provenance


def test_a_name_without_a_reference_shifts_no_label(results, monkeypatch):
    import rim.apps.loop as loop

    review, vectors = Review(results), loop.correction_vectors
    doubts = review.queue()[:2]
    monkeypatch.setattr(loop, "correction_vectors", lambda *a: (np.full_like(vectors(*a)[0], np.nan), vectors(*a)[1]))
    review.correct(doubts[0].image, [doubts[0].at], "speck")
    monkeypatch.setattr(loop, "correction_vectors", vectors)
    review.correct(doubts[1].image, [doubts[1].at], "lantern")
    assert review.bank().names == tuple(n for n in review.names if n != "speck")
    review.again()
    for doubt, name in zip(doubts, ("speck", "lantern")):
        kept = review.stored_result(review.picture(doubt.image))
        assert kept.vocabulary.labels[kept.labels[doubt.at[1], doubt.at[0]]] == name
        assert {kept.vocabulary.labels[r.label] == r.name for r in kept.regions} == {True}


def test_what_was_taken_back_leaves_no_trace(results, capsys):
    files = sorted(f for f in results.iterdir() if f.suffix == ".png")
    Review(results).again()
    before, first = [f.read_bytes() for f in files], Review(results).queue()[0]
    where = ["correct", str(results), first.image, "--at", f"{first.at[0]},{first.at[1]}"]
    assert main([*where, "--name", "lantern"]) == 0 and [f.read_bytes() for f in files] != before
    assert main([*where, "--forget"]) == 0 and "taken back" in capsys.readouterr().out
    assert [f.read_bytes() for f in files] == before and not Review(results).corrections
    assert main([*where, "--forget"]) == 2 and "must cover the pixel" in capsys.readouterr().err
    assert main([*where, "--forget", "--name", "lantern"]) == 2 and "a correction needs" in capsys.readouterr().err


def test_a_widget_draws_with_points_and_takes_back(results):
    from rim.apps.correct_widget import CorrectWidget

    review = Review(results)
    first = review.queue()[0]
    shown = CorrectWidget(review.stored_result(review.picture(first.image)), review.corrector(first.image), first.at)
    assert shown.draws and not CorrectWidget(shown.segmentation, lambda at, name: shown.segmentation).draws
    shown.said = ["lantern", *first.at, 1, [list(first.at)]]
    (made,) = Review(results).corrections
    assert (made.how, made.name, made.points) == ("points", "lantern", (first.at,)) and shown.answered == 1
    assert "lantern" in shown.names
    y, x = np.argwhere(made.mask)[0].tolist()
    shown.said = ["", x, y, 2, []]
    assert not Review(results).corrections and "lantern" not in shown.names and shown.answered == 2
    shown.said = ["", x, y, 3, []]
    assert "must cover the pixel" in shown.page and shown.answered == 3


def test_more_images_join_what_was_corrected(results, world, capsys):
    review = Review(results)
    first = review.queue()[0]
    review.correct(first.image, [first.at], "lantern")
    review.again()
    before = json.loads((results / "session.rim").read_text())
    Image.fromarray(world.scene(15).image).save(results.parent / "s15.png")
    images = [str(results.parent / f"s{n}.png") for n in (13, 14, 15)]
    assert main(["segment", *images, "--bank", str(results / "bank.safetensors"), "--keep", "--out", str(results)]) == 0
    assert capsys.readouterr().out.count("done before") == 2
    after = Review(results)
    assert after.session == {**before, "images": {**before["images"], "s15.png": "../s15.png"}}
    assert after.bank().record["corrections"] == [c.provenance for c in after.corrections] and after.again() == []


def test_a_slip_of_the_keys_is_told(results, capsys, monkeypatch):
    review, told, lines = Review(results), [], iter(["9", "canoe", "Canoe"])
    choices = len(review.queue()[0].choices)

    def read(text):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert review.ask(read=read, say=told.append) == 2 and [c.name for c in review.corrections] == ["canoe"] * 2
    assert [t.strip() for t in told if t.startswith("  ")] == [
        f"a number chooses one of 1 to {choices}: got 9",
        "canoe is a new name",
    ]
    at = review.queue()[4].at
    words = ["correct", str(results), review.queue()[4].image, "--at", f"{at[0]},{at[1]}", "--name", "cnoe"]
    assert main(words) == 0 and "; new: cnoe\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["correct", "OUT", "s13.png", "--at", "1,1"], "a correction needs"),
        (["correct", "OUT", "s99.png", "--at", "1,1", "--name", "x"], "must be one of the 2"),
        (["correct", "OUT", "s13.png", "--at", "500,1", "--name", "x"], "must lie in the image"),
        (["correct", "OUT"], "no corrections yet"),
        (["explain", "OUT", "s13.png", "--at", "500,1"], "must lie in the image"),
        (["queue", "OUT", "--most", "0"], "--most must be 1 or more"),
        (["explain", "OUT", "s13.png", "--at", "1,1", "--set", "match_margin=1"], "results keep the settings"),
        (["queue", "NOWHERE"], "has no session.rim"),
    ],
)
def test_refusals_are_sentences(results, capsys, words, said):
    place = {"OUT": str(results), "NOWHERE": str(results.parent)}
    assert main([place.get(w, w) for w in words]) == 2
    assert said in capsys.readouterr().err


def test_hostile_answers_and_damaged_files_are_refused(results):
    review = Review(results)
    with pytest.raises(ValueError, match="an answer has image"):
        review.answer([{"image": "s13.png"}])
    (results / "corrections.json").write_text('{"corrections": [{"image": 3}]}')
    with pytest.raises(ValueError, match="a correction has image"):
        Review(results)
    (results / "session.rim").write_text("{")
    with pytest.raises(ValueError, match="must be as rim wrote it"):
        Review(results)


def test_a_page_shows_names_as_text(results):
    review = Review(results)
    facts = json.loads((results / "s13.json").read_text())
    facts["regions"][0]["class"] = "<script>alert(1)</script>"
    (results / "s13.json").write_text(json.dumps(facts))
    page = review.write_page(results / "queue.html").read_text()
    assert "<script>alert" not in page


def test_a_page_says_what_it_is_for_and_keeps_answers_apart(results, tmp_path):
    "A browser keeps answers by a key: not by the folder's name, which many results share; a name may be any word."
    review = Review(results)
    facts = json.loads((results / "s13.json").read_text())
    facts["regions"][0]["class"] = "KEY"
    (results / "s13.json").write_text(json.dumps(facts))
    page = review.write_page(results / "queue.html").read_text()
    assert f"rim correct {results.name} --answers answers.json" in page and "<b>KEY</b>" in page
    other = shutil.copytree(results, tmp_path / "elsewhere" / results.name)
    session = json.loads((other / "session.rim").read_text())
    session["images"] = {name: str(review.picture(name).path) for name in session["images"]}  # where they lay
    (other / "session.rim").write_text(json.dumps(session))
    keys = [
        re.search('const key = ("rim [0-9a-f]{16}")', p)[1]
        for p in (page, Review(other).write_page(other / "q.html").read_text())
    ]
    assert keys[0] != keys[1]


@pytest.mark.promise(61)
def test_coco_has_no_region_that_is_unknown(tmp_path, world):
    Image.fromarray(world.scene(13).image).save(tmp_path / "s13.png")
    words = ["segment", str(tmp_path / "s13.png"), "--classes", "boat, tree, car", "--coco", "--unknown", "0.9"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    facts, coco = (json.loads((tmp_path / f"out/{n}.json").read_text()) for n in ("s13", "coco"))
    sure = [r for r in facts["regions"] if r["label"] and not r.get("unknown")]
    assert len(coco["annotations"]) == len(sure) and facts["unknown"] == {"label": 254, "below": 0.9}
    assert all((r["confidence"] < 0.9) == bool(r.get("unknown")) for r in facts["regions"])


@pytest.mark.promise(61)
def test_unknown_needs_the_matcher(tmp_path, capsys, world):
    Image.fromarray(world.scene(13).image).save(tmp_path / "s13.png")
    words = [
        "segment",
        str(tmp_path / "s13.png"),
        "--classes",
        "boat",
        "--unknown",
        "0.5",
        "--out",
        str(tmp_path / "o"),
    ]
    for method in ("rim", "trident"):
        assert (
            main([*words, "--method", method]) == 2 and "--unknown goes with --method match" in capsys.readouterr().err
        )
