"""results.json: what is asked of a number, made from table and provenance, and noticed when it no longer fits them."""

import json
import shutil

import pytest
from conftest import ROOT

from rim.apps.cli import main
from rim.reproduce.results import (
    _problems_of,
    _settings_problems,
    _read_record,
    results_of,
    _results_text,
    _values_of,
    verify_results,
    write_results,
)

TOYBOX = sorted(p.parent for p in ROOT.glob("figures/toybox/*/provenance.json"))
RESULTS = sorted(p.parent for p in ROOT.glob("figures/*/*/results.json"))


@pytest.fixture
def result(tmp_path):
    "A result whose files are as they were made."
    folder = shutil.copytree(ROOT / "figures/toybox/table5", tmp_path / "figures/toybox/table5")
    record, _ = _read_record(folder)
    record["settings"] = {}  # what the profile says today is another test's
    (folder / "provenance.json").write_text(json.dumps(record))
    write_results(folder)
    assert _problems_of(folder) == []
    return folder


def test_a_value_keeps_its_digits():
    found = _values_of("row,paper,ours,low,high\na,42.0,67.20,65.1,69\nb,77.8,,,\n")
    assert found["a"] == dict(value=67.2, text="67.20", low=65.1, high=69.0, paper=42.0)
    assert found["b"] == dict(value=None, text=None, low=None, high=None, paper=77.8)
    assert _values_of("name,number\na,1\n") == _values_of("") == {}


@pytest.mark.parametrize("folder", TOYBOX, ids=lambda p: p.name)
def test_committed_results_answer_what_is_asked(folder):
    found = results_of(*_read_record(folder))
    assert found["values"] and all(v["low"] <= v["value"] <= v["high"] for v in found["values"].values() if v["low"])
    assert found["images"] and found["seeds"] and found["weights"] and found["code"]["revision"]
    assert found["compute"]["wall_seconds"] > 0 and found["compute"]["peak_memory_mb"] > 100
    assert found["compute"]["gpu_hours"] == 0 and found["compute"]["energy_kwh"] is None


@pytest.mark.parametrize("folder", RESULTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_committed_results_are_what_table_and_provenance_give(folder):
    assert (folder / "results.json").read_text(encoding="utf-8") == _results_text(folder)


def test_hours_of_a_gpu():
    record, table = _read_record(TOYBOX[0])
    compute = results_of(record | dict(device="NVIDIA H200", seconds=1800.0, cpu_seconds=7200.0), table)["compute"]
    assert compute["gpu_hours"] == 0.5 and compute["cpu_hours"] == 2.0


def test_files_that_changed_or_went_are_named(result):
    table = result / "table5.csv"
    table.write_text(table.read_text().replace("43.8", "43.9"))
    (result / "table5.pdf").unlink()
    found = _problems_of(result)
    assert found == [
        "results.json is not what table and provenance give",
        "table5.csv was changed since it was made",
        "table5.pdf is gone",
    ]


def test_other_weights_and_settings_are_named(result):
    record = json.loads((result / "provenance.json").read_text())
    record["inputs"]["toybox:sam"] = "0" * 64
    record["settings"] = {"agents": 5}
    (result / "provenance.json").write_text(json.dumps(record))
    write_results(result)
    assert _problems_of(result) == [
        "the profile has other settings now: agents",
        "the weights toybox:sam are others now",
    ]


def test_only_settings_that_a_result_can_depend_on_are_compared(result):
    record = json.loads((result / "provenance.json").read_text())
    other = dict(points_per_batch=7, groupvit_revision="0", dino_revision="0", freeda_background=0.1, store="/else")
    record["settings"] |= other
    assert _settings_problems(record, "no other methods") == []
    assert _settings_problems(record, "rim.peers.retrieval") == []
    assert _settings_problems({**record, "settings": dict(peer_side=1)}, "rim.peers.retrieval") != []
    assert _settings_problems(record, "from rim.peers.freeda import FreeDA")[0].endswith(" now: freeda_background")
    record["settings"] |= dict(dino="own/dino", dino_revision="0", agents=5)
    record["inputs"]["own/dino"] = "0" * 64
    assert _settings_problems(record, "")[0].endswith(" now: agents, dino, dino_revision")


@pytest.mark.parametrize(
    "unknown, book, compared",
    [
        (0.0, "", False),
        (0.0, "from rim.measure.calibration import Calibration", True),
        (0.0, "from rim.measure.correcting import simulate", True),
        (0.5, "", True),
    ],
)
def test_a_curve_of_confidence_counts_where_confidence_is_read(unknown, book, compared):
    record = dict(profile="toybox", changes=dict(unknown=unknown), inputs={})
    record["settings"] = dict(confidence_curve="1, 1, 1, 1, 1", unknown=unknown)
    found = _settings_problems(record, book)
    assert found == (["the profile has other settings now: confidence_curve"] if compared else [])


@pytest.mark.parametrize("module, compared", [("", False), ("retrieval", False), ("freeda", True), ("ovdiff", True)])
def test_what_a_profile_needs_counts_where_a_method_asks_for_it(module, compared):
    record = dict(profile="toybox", changes={}, inputs={}, settings=dict(needs="sam"))
    found = _settings_problems(record, f"from rim.peers.{module} import it" if module else "")
    assert found == (["the profile has other settings now: needs"] if compared else [])


def test_all_committed_results_verify():
    "Files, settings and weights; whoever changes a setting that a number depends on makes the figure again."
    said = []
    assert verify_results(ROOT, say=said.append) == 0, "\n".join(
        line for line in said if "as they were made" not in line
    )


def test_the_exit_code_says_whether_all_is_well(result, capsys):
    root = result.parents[2]
    assert verify_results(root) == 0 and "5 files as they were made" in capsys.readouterr().out
    (result / "table5.md").write_text("")
    assert verify_results(root, ["table5"]) == 1 and "table5.md was changed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of 'table9'"):
        verify_results(root, ["table9"])


def test_the_command_is_there(capsys):
    assert main(["verify-results", "table9"]) == 2
    assert "table9" in capsys.readouterr().err
