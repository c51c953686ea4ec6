import json, re
import pytest
from bench.__main__ import main
from bench.harness import alternate

def test_the_table_is_printed_and_kept(tmp_path, capsys):
    main(["confusion", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    kept, shown = json.loads(path.read_text()), capsys.readouterr().out
    assert kept["machine"]["processor"] in shown and str(path) in shown
    assert len(kept["rows"]) == 6 and all(row["ours"] > 0 and row["theirs"] > 0 for row in kept["rows"])
    assert all(row["agreement"] == "equal" for row in kept["rows"] if row["other"] == "scikit-learn")
    assert all(float(re.search(r"\S+(?= at most)", row["agreement"])[0]) < 1e-6 for row in kept["rows"] if "mmseg" in row["other"])

def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit): main(["speed"])
    assert "'speed'" in capsys.readouterr().err

def test_rounds_alternate():
    calls = []
    times = alternate([lambda: calls.append("a"), lambda: calls.append("b")], rounds=4)
    assert "".join(calls) == "ab" * 5 and len(times) == 2
