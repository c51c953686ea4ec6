"""The ledger of claims: verdicts that measurements bear out, and no number of ours that is not in a result's table."""

import json
import re
import shutil

import pytest
from conftest import ROOT

from rim.reproduce.claims import _Claim, Claims, _check, _fill, _page, _report, sentence, write_pages
from rim.reproduce.comparisons import ABSENT, NotMeasured, Tables, decide, _side
from rim.reproduce.index import index
from rim.reproduce.registry import TARGETS

GAP = r"\{([^{}]+)\}"
NUMBER = r"(?<![\w.])\d+\.\d+"


@pytest.fixture(scope="module")
def claims():
    return Claims(ROOT)


def test_every_entry_is_told_by_its_place(claims):
    places = [(c.paper, c.where, c.says) for c in claims.claims]
    assert len(set(places)) == len(places) and {c.paper for c in claims.claims} == {"RIM", "Trident"}
    assert all("\n" not in text and text.strip() == text for place in places for text in place)


def test_the_tables_of_the_paper_are_there(claims):
    covered = " ".join(c.where for c in claims.claims if c.paper == "RIM")
    for part in (*(f"Table {n}" for n in range(1, 6)), "Figure 1", *(f"Figure {n}" for n in range(3, 7))):
        assert part in covered, part
    assert all(f"row {n}" in covered or "rows 1 to 3" in covered for n in range(1, 16))


def test_every_cell_names_a_target(claims):
    assert len(claims.cells) > 50
    for name in claims.cells:
        target, _, row = name.partition(": ")
        assert target.rpartition("/")[2] in TARGETS and row, name


def test_every_row_is_there_and_every_verdict_holds(claims):
    "Of results that this clone holds; after a new measurement somebody has to look at what is named here."
    assert claims.problems() == []


def test_numbers_of_ours_are_cells_of_results(claims):
    "Outside the gaps there are only numbers of the paper, differences of them, and values of parameters."
    for c in claims.claims:
        gaps = re.findall(GAP, " ".join(c.why.split()))
        sides = [what for left, _, right in c.tests for what in (left, right)]
        known = {n for text in (c.says, str(c.number), *map(str, sides), *gaps) for n in re.findall(NUMBER, text)}
        known |= {_side(s, claims.tables).text for s in sides if not isinstance(s, str) or ": " not in s}
        written = set(re.findall(NUMBER, re.sub(GAP, "", c.why)))
        assert written <= known, f"{c.where}: {written - known}"


def test_the_report_writes_no_number_of_its_own(claims):
    assert re.findall(NUMBER, re.sub(GAP, "", claims.template)) == ["1.4"]  # the version of Stable Diffusion


def test_sentences_end_and_have_no_gap_left(claims):
    for c in claims.claims:
        text = _fill(c.why, claims.tables)
        assert text.endswith(".") and "{" not in text and len(text) < 400


def test_pages_are_those_of_the_results(claims):
    assert (ROOT / "docs/claims.md").read_text(encoding="utf-8") == _page(claims), "run python docs/claims.py"
    assert (ROOT / "docs/report.md").read_text(encoding="utf-8") == _report(claims)
    assert (ROOT / "figures/claims.md").read_text(encoding="utf-8") == sentence(claims) + "\n"


ENTRY = r"\[([^\]]*\d[^\]]*)\]\(\S*?figures/(\w+/)?README\.md#(\w+)\)"  # a number that leads to its target in an index


@pytest.mark.parametrize("name", ["README.md", "docs/report.md", "docs/claims.md"])
def test_a_number_leads_to_the_entry_that_holds_it(name):
    "Interval, scale, images and cost stand there."
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    found = [m for m in re.finditer(ENTRY, text) if re.match(r"[\d.]+", m[1])]
    assert len(found) >= 8
    for shown, profile, target in (m.groups() for m in found):
        number, page = re.match(r"[\d.]+", shown)[0], (ROOT / "figures" / (profile or "") / "README.md").read_text()
        values = values_of(ROOT, f"{profile or 'toybox/'}{target}").values()
        half = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
        assert any(abs(v["value"] - float(number)) <= half for v in values if v["value"] is not None), (number, target)
        entry = page.partition(f'<a id="{target}"></a>')[2].partition("<a id=")[0]
        assert "| row | paper | ours | low | high |" in entry and re.search(r"\d s, .* of CPU, .* MB at most", entry)
        assert any(re.match(rf"\| .* \| {v['text']} \|", line) for v in values for line in entry.splitlines())


@pytest.mark.parametrize("name, versions", [("README.md", {"3.11", "2.0"}), ("docs/report.md", {"1.4"})])
def test_no_number_stands_there_without_its_link(name, versions):
    text = re.sub(r"<!-- begin .*?<!-- end [^>]*>", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)
    assert set(re.findall(NUMBER, re.sub(r"\[[^\]]*\]\([^)]*\)", "", text))) <= versions


def test_trained_models_name_tests_that_there_are(claims):
    written = (ROOT / "tests/test_photo.py").read_text(encoding="utf-8")
    assert {t.name for t in claims.trained} == {"mobile-sam", "efficientnet-lite2", "dinov2-small-focus"}
    for test in (test for t in claims.trained for test in t.test.split(", ")):
        assert f"def {test}(" in written, test


@pytest.fixture
def copy(tmp_path):
    "A clone in which every row that a claim names was measured, so that all verdicts of the toybox are open."
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "claims.toml", tmp_path), shutil.copy(ROOT / "docs/report.template", tmp_path / "docs")
    made = {}
    for name in Claims(ROOT).cells:
        target, _, row = name.partition(": ")
        values = made.setdefault(target if "/" in target else f"toybox/{target}", {})
        values[row] = dict(value=40.0, text="40.00", low=35.0, high=45.0, paper=None)
    for target, values in made.items():
        write(tmp_path, target, values)
    return tmp_path


def write(root, target, values):
    file = root / "figures" / target / "results.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(values=values, compute=dict(wall_seconds=60.0))))


def values_of(root, target):
    return json.loads((root / "figures" / target / "results.json").read_text())["values"]


def test_every_number_comes_from_the_results(copy):
    "With 40.00 in every cell, no other number of ours can be on the pages."
    claims = Claims(copy)
    write_pages(claims)
    assert claims.counts[ABSENT] == 0
    ours = set(re.findall(r"(?<![\w.])\d+\.\d\d(?![\d.])", (copy / "docs/report.md").read_text()))
    assert ours == {"40.00"} and _page(claims).count("40.00") > 60


def test_a_result_that_turns_round_is_noticed(copy):
    place = "Table 2, row 2; section 4.4"
    assert any(place in p and p.endswith("its comparisons say 'open'") for p in Claims(copy).problems())
    values = values_of(copy, "toybox/table2")
    values["CLIP on crops"] |= dict(value=90.0, text="90.00", low=89.0, high=91.0)
    write(copy, "toybox/table2", values)
    claims = Claims(copy)
    row = next(c for c in claims.claims if c.where == place)
    assert row.outcome(claims.tables) == "fails" and "toy, fails | toybox | Whole-image references have" in _page(
        claims
    )
    assert not any(place in problem for problem in claims.problems())


def test_a_row_that_is_gone_is_named(copy):
    values = values_of(copy, "toybox/fig6")
    values["CLIP, silhouette"] = values.pop("CLIP: silhouette")
    write(copy, "toybox/fig6", values)
    claims = Claims(copy)
    assert "Not measured here: the results of fig6 have no row 'CLIP: silhouette'." in claims.problems()
    assert "40.00" in _page(claims)  # the rest is still there


def test_a_result_that_is_gone_is_no_error(copy):
    (copy / "figures/toybox/table5/results.json").unlink()
    claims = Claims(copy)
    row = next(c for c in claims.claims if c.where == "Table 5; section 4.4")
    assert row.current_verdict(claims.tables) == ABSENT and "1 not measured here yet" in sentence(claims)
    assert _fill(row.why, claims.tables) == "Not measured here yet: `rim reproduce table5` measures it."
    assert not any("table5" in problem for problem in claims.problems())


def test_a_clone_without_results_has_its_pages(copy):
    shutil.rmtree(copy / "figures")
    (copy / "figures").mkdir()
    claims = Claims(copy)
    assert claims.problems() == [] and claims.counts["verified"] == 12
    assert {p.name for p in write_pages(claims)} == {"claims.md", "report.md"}
    assert "(not measured here yet)" in _report(claims) and "40.00" not in _page(claims)


def test_the_index_ends_with_the_claims(copy):
    text = index(copy)
    assert text.index("## Claims") > text.index("## Profile paper") and "| RIM | Table 5; section 4.4 |" in text
    assert "## Claims" not in index(copy, profiles=("toybox",))


def test_a_target_that_there_is_not_is_an_error():
    with pytest.raises(ValueError, match="there is none called 'table9'"):
        Tables(ROOT).cell("table9: x")
    with pytest.raises(NotMeasured, match="--profile rehearsal"):
        Tables(ROOT).cell("rehearsal/table2: CLIP on crops")


@pytest.mark.parametrize(
    "test, outcome",
    [
        ([2, ">", 1], "holds"),
        ([1, ">", 2], "fails"),
        ([1, ">", 1], "open"),
        (["77.8 - 67.1", "=", 10.7], "holds"),
        (["77.8 - 67.1", "=", 10.4], "fails"),
        ([40, "within 5", 44], "holds"),
        ([40, "within 5", 46], "fails"),
        (["mean 1 2 3", "=", 2], "holds"),
    ],
)
def test_comparisons(test, outcome):
    assert decide(test, Tables(ROOT)) == outcome


@pytest.mark.parametrize(
    "scale, verdict, tests",
    [
        ("numbers", "verified", ([1, ">", 2],)),
        ("numbers", "falsified", ([2, ">", 1],)),
        ("toybox", "verified", ([2, ">", 1],)),
        ("toybox", "toy", ()),
        ("toybox", "not attempted", ([2, ">", 1],)),
        ("numbers", "toy", ([2, ">", 1],)),
        ("somewhere", "toy", ([2, ">", 1],)),
        ("toybox", "surely", ([2, ">", 1],)),
    ],
)
def test_verdicts_that_can_not_be(scale, verdict, tests):
    with pytest.raises(ValueError):
        _check(_Claim("RIM", "here", "this", scale, verdict, "", tests=tests), Tables(ROOT))
