"""Ledger: one line per count, nothing without the variable, whole lines from many processes, and the memory at the
end."""

import os, subprocess, sys
import numpy as np
from rim.base.ledger import VARIABLE, note, peak_memory, read_ledger


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    note("bank", references=3)
    assert not list(tmp_path.iterdir()) and read_ledger(tmp_path / "ledger") == {}


def test_what_is_counted_twice_alike_is_there_once(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ledger"))
    for name, n in (("a", 1), ("b", 2), ("a", 1), ("a", np.int64(3).item())):
        note("bank", name=name, dropped=n)
    assert read_ledger(tmp_path / "ledger") == {
        "bank": [dict(name="a", dropped=1), dict(name="b", dropped=2), dict(name="a", dropped=3)]
    }


def test_processes_share_a_ledger_and_say_their_memory(tmp_path):
    code = (
        "from rim.base.ledger import note; [note('bank', k=k, text='x' * 300) for k in range(200)]; ballast = "
        "bytearray(120 * 2**20)"
    )
    environment = {**os.environ, VARIABLE: str(tmp_path / "ledger")}
    for process in [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]:
        assert process.wait() == 0
    found = read_ledger(tmp_path / "ledger")
    assert len((tmp_path / "ledger").read_text().splitlines()) == 603 and len(found["bank"]) == 200
    assert len(found["process"]) == 3 and all(
        120 < p["peak_memory_mb"] < 2000 and p["device"] == "cpu" for p in found["process"]
    )


def test_peak_memory_never_falls():
    before = peak_memory()
    ballast = np.ones(30 * 2**20 // 8)
    del ballast
    assert peak_memory() >= before > 0
