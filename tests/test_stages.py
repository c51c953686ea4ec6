"""Versions of stages: whoever changes the code of a stage is reminded to decide whether its results change.

`python tests/test_stages.py` records the code as it is; raise `version` first where a stage now gives other results."""

import importlib, json
from pathlib import Path
import pytest
from rim.base.stages import _STAGES, Stage, _code_digest

RECORD = Path(__file__).with_name("stages.json")
MODULES = (
    "method.references",
    "method.photographs",
    "method.regions",
    "method.segmenter",
    "method.common",
    "method.matcher",
    "trident.trident",
    "peers.text",
    "peers.groupvit",
    "peers.freeda",
    "peers.ovdiff",
    "peers.diffsegmenter",
    "peers.retrieval",
    "measure.evaluation",
    "measure.examination",
    "measure.rivals",
    "apps.batch",
)
for module in MODULES:
    importlib.import_module(f"rim.{module}")
OURS = {name: stage for name, stage in _STAGES.items() if name != "example"}


def record():
    return {name: {"version": stage.version, "code": stage.digest} for name, stage in sorted(OURS.items())}


def test_every_stage_is_recorded():
    assert set(OURS) == set(json.loads(RECORD.read_text()))


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_version_stands_for_the_code_that_was_recorded(name):
    then, stage = json.loads(RECORD.read_text())[name], OURS[name]
    assert then["version"] <= stage.version, f"{name}: a version never goes down"
    assert then == {"version": stage.version, "code": stage.digest}, (
        f"the code of stage {name} changed ({', '.join(stage.modules)}): if it gives other results, raise its version; "
        "then record it with `python tests/test_stages.py`"
    )


def test_a_key_holds_version_settings_parts_and_facts(monkeypatch):
    from rim.base.settings import Settings

    settings, stage = Settings.from_profile("toybox"), Stage("tried", 3, ("rim.base.ledger",), ("seed",))
    monkeypatch.delitem(_STAGES, "tried")
    key = stage.key(settings, {"encoder": {"name": "mine"}}, content="abc")
    assert (key["stage"], key["version"], key["settings"]) == ("tried", 3, {"seed": settings.seed})
    assert key["encoder"] == {"name": "mine"} and key["content"] == "abc" and "torch" in key["libraries"]
    assert stage.key(settings.replace(image_size=128), {"encoder": {"name": "mine"}}, content="abc") == key
    assert stage.key(settings, {"encoder": None}) is None


def test_docstrings_and_comments_leave_the_code_as_it_is(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    stage = Stage("tried", 1, ("mod_b",))
    monkeypatch.delitem(_STAGES, "tried")
    sources = (
        'def f():\n    "One."\n    return 1\n',
        'def f():\n    "Another."\n    return 1  # why\n',
        "def f():\n    return 2\n",
    )
    digests = []
    for source in sources:
        (tmp_path / "mod_b.py").write_text(source)
        digests.append(stage.digest)
    assert digests[0] == digests[1] != digests[2]


def test_layout_leaves_the_code_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "mod_a.py").write_text("x = 1  # why\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = _code_digest("mod_a")
    (tmp_path / "mod_a.py").write_text("# another comment\nx   = 1\n")
    assert _code_digest("mod_a") == before
    (tmp_path / "mod_a.py").write_text("x = 2\n")
    assert _code_digest("mod_a") != before


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
