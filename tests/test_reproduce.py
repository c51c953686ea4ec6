"""Reproduction: strict parameters, everything missing named at once, only whole runs count, and nothing stale passes for new."""
import json, os, signal, subprocess, sys, time
from pathlib import Path
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rim import reproduce as rp
from rim.settings import Settings

PARAMETERS = '''profile: str = "toybox"  # whose settings
factor: int = 2  # times what
loud: bool = False  # a switch
overrides: dict = {}  # further settings
folder: str = "figures/toybox/tiny"  # where results go'''
WORKS = "from pathlib import Path\nresult = 21 * factor\nPath(folder, f'{folder.split(\"/\")[-1]}.csv').write_text(f'row,paper,ours\\nproduct,40.0,{result}\\nsum,,1.5\\n')"

def write(root, name, *body, parameters=PARAMETERS, prose="# Tiny"):
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell(prose), tagged, *map(new_code_cell, body)]
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    path = root / f"nbs/paper/{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)
    return path

def target(name, **more): return rp.Target(name, f"Title of {name}", f"paper/{name}.ipynb", 0.1, **more)

REGISTRY = {name: target(name) for name in ("tiny", "broken")}

@pytest.fixture
def project(tmp_path):
    write(tmp_path, "tiny", WORKS)
    write(tmp_path, "broken", "1 / 0")
    return tmp_path

def run(project, *names, **how):
    said = []
    code = rp.reproduce(names or ["tiny"], root=project, registry=REGISTRY, say=said.append, **how)
    return code, "\n".join(said)

def test_a_run_and_what_follows(project):
    "One project through a run, a skip, every change that must bring a new run, and one that must not."
    code, said = run(project)
    folder = project / "figures/toybox/tiny"
    assert code == 0 and sorted(p.name for p in folder.iterdir()) == ["provenance.json", "tiny.csv", "tiny.ipynb"]
    assert "40.0  42.0        +2.0" in said and "sum" in said and "–" in said
    again = lambda **how: "up to date" not in run(project, **how)[1]
    assert not again(), "nothing changed"
    write(project, "tiny", WORKS, prose="# Tiny, reworded")
    assert not again(), "prose determines no result"
    assert again(force=True)
    assert again(overrides={"factor": "3"}) and "63" in (folder / "tiny.csv").read_text()
    (folder / "tiny.csv").write_text("row,paper,ours\nproduct,40.0,99\n")
    assert again(overrides={"factor": "3"}), "a changed output is made again"
    write(project, "tiny", WORKS, "1 + 1")
    assert again(overrides={"factor": "3"}), "changed code is run"

def test_executed_notebook_and_provenance_hold_no_machine_path(project):
    write(project, "tiny", WORKS, "import os, sys\nos.getcwd(), sys.prefix, os.path.expanduser('~/x')")
    assert run(project)[0] == 0
    for name in ("tiny.ipynb", "provenance.json"):
        text = (project / "figures/toybox/tiny" / name).read_text()
        assert str(project) not in text and sys.prefix not in text and f"{Path.home()}/" not in text
    record = json.loads((project / "figures/toybox/tiny/provenance.json").read_text())
    assert record["target"] == "tiny" and record["parameters"]["folder"] == "figures/toybox/tiny" and record["settings"]["agents"] == Settings.from_profile("toybox").agents
    assert set(record["outputs"]) == {"tiny.csv", "tiny.ipynb"} and record["seconds"] > 0 and record["machine"]["cores"] == os.cpu_count()

def test_a_failing_target_is_named_and_the_others_go_on(project):
    code, said = run(project, "broken", "tiny")
    assert code == 1 and "ZeroDivisionError: division by zero" in said and "Failed: broken." in said and "+2.0" in said
    folder = project / "figures/toybox/broken"
    assert [p.name for p in folder.iterdir()] == ["broken.partial.ipynb"]

def test_all_that_is_missing_is_named_before_anything_runs(project, monkeypatch):
    registry = {**REGISTRY, "heavy": target("heavy", needs=("diffusion", "sam"))}
    write(project, "heavy", WORKS)
    monkeypatch.setenv("RIM_MODELS", str(project / "nothing"))
    with pytest.raises(ValueError) as refusal:
        rp.reproduce(["tiny", "tabel2", "heavy"], "paper", {"agents": "4", "factr": "3"}, root=project, registry=registry)
    for word in ("tabel2", "factr", "did you mean 'factor'"): assert word in str(refusal.value)
    with pytest.raises(ValueError) as refusal: rp.reproduce(["heavy"], "paper", root=project, registry=registry)
    for word in ("stable-diffusion-v1-4", "sam_vit_b_01ec64.pth"): assert word in str(refusal.value)
    assert not (project / "figures").exists()

@pytest.mark.parametrize("overrides, words", [
    ({"facter": 3}, "did you mean 'factor'"), ({"factor": "two"}, "factor must be of type int, not 'two'"), ({"loud": "maybe"}, "loud must be of type bool"),
    ({"agentz": 3}, "did you mean 'agents'"), ({"agents": "many"}, "agents")])
def test_parameters_are_strict(project, overrides, words):
    with pytest.raises(ValueError, match=words): run(project, overrides=overrides)

def test_parameters_get_their_types(project):
    bound = rp.bind(project / "nbs/paper/tiny.ipynb", Settings.from_profile("toybox"), {"factor": "7", "loud": "yes", "agents": "3"}, "here")
    assert bound == dict(profile="toybox", factor=7, loud=True, overrides={"agents": "3"}, folder="here")

@pytest.mark.parametrize("parameters, words", [("a = 1", "name: type = value"), ("print(1)", "name: type = value")])
def test_an_untyped_parameter_is_refused(tmp_path, parameters, words):
    with pytest.raises(ValueError, match=words): rp.notebook_parameters(write(tmp_path, "tiny", parameters=parameters))

def test_exactly_one_parameters_cell(tmp_path):
    path = write(tmp_path, "tiny", WORKS)
    book = nbformat.read(path, 4)
    book.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    with pytest.raises(ValueError, match="tiny.ipynb has 2"): rp.notebook_parameters(path)

def test_a_cell_that_did_not_complete_is_found():
    def cell(source="1", count=1, **papermill): return new_code_cell(source, execution_count=count, metadata={"papermill": papermill})
    good = cell(status="completed", exception=False)
    bad = [cell(status="pending"), cell(count=None, status="completed"), cell(status="completed", exception=True)]
    assert rp.incomplete(new_notebook(cells=[good, new_markdown_cell("text"), cell("  ", None)])) == []
    assert rp.incomplete(new_notebook(cells=[good, *bad])) == [1, 2, 3]

def test_numbers_are_compared_with_the_committed_ones(project):
    git = lambda *words: subprocess.run(["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@y", *words], check=True, capture_output=True)
    git("init", "-q"); assert "No committed numbers" in run(project)[1]
    git("add", "-A"); git("commit", "-qm", "results")
    job = rp.plan(["tiny"], "toybox", {}, project, REGISTRY)[0][0]
    assert rp.compared(job, project) == "Its numbers equal the committed ones."
    table = job.folder / "tiny.csv"
    table.write_text(table.read_text().replace("1.5", "2.0"))
    assert "differ from the committed ones by up to 0.5" in rp.compared(job, project)
    table.write_text("row,paper,ours\nother,,1\n")
    assert "rows differ" in rp.compared(job, project)

def test_without_a_clone_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(rp.rim, "__file__", str(tmp_path / "site-packages/rim/__init__.py"))
    with pytest.raises(FileNotFoundError, match="needs the notebooks of a clone"): rp.notebooks_root(tmp_path)

def test_found_from_a_folder_below(project):
    assert rp.notebooks_root(project / "nbs/paper") == project

def test_interrupted_says_what_is_done_and_exits_130(project):
    write(project, "broken", "import time\ntime.sleep(60)")
    code = ("import sys; from rim.reproduce import *\n"
            "registry = {n: Target(n, n, f'paper/{n}.ipynb', 1) for n in ('tiny', 'broken')}\n"
            f"sys.exit(reproduce(['tiny', 'broken'], root={str(project)!r}, registry=registry))")
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith("broken: running"): break
    time.sleep(4); process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=40)
    assert process.returncode == 130 and "Interrupted" in rest and "+2.0" in rest

def test_every_registered_target_has_its_notebook_and_says_what_it_needs(root):
    for t in rp.TARGETS.values():
        parameters = rp.notebook_parameters(root / "nbs" / t.notebook)
        assert {"profile", "folder"} <= set(parameters) and parameters["folder"][1] == f"figures/toybox/{t.name}"
        assert set(t.needs) <= set(Settings.from_profile("toybox").as_dict()) and (t.paper or not t.name.startswith("table"))
