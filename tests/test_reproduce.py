"""Reproduction: strict parameters, everything missing named at once, only whole runs count, and nothing stale passes
for new."""

import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rooms import reproduce as rp
from rim.base.ledger import VARIABLE
from rim.base.settings import Settings

PARAMETERS = """profile: str = "toybox"  # whose settings
factor: int = 2  # times what
loud: bool = False  # a switch
overrides: dict = {}  # further settings
folder: str = "figures/toybox/tiny"  # where results go"""
WORKS = (
    "from pathlib import Path\nresult = 21 * factor\nPath(folder, "
    "f'{folder.split(\"/\")[-1]}.csv').write_text(f'row,paper,ours\\nproduct,40.0,{result}\\nsum,,1.5\\n')"
)


def write(root, name, *body, parameters=PARAMETERS, prose="# Tiny"):
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell(prose), tagged, *map(new_code_cell, body)]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    path = root / f"nbs/paper/{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        ),
        path,
    )
    return path


def target(name, **more):
    return rp.Target(name, f"Title of {name}", f"paper/{name}.ipynb", 0.1, **more)


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
    assert code == 0 and sorted(p.name for p in folder.iterdir()) == [
        "provenance.json",
        "results.json",
        "tiny.csv",
        "tiny.ipynb",
    ]
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
    (folder / "mine.txt").write_text("a note of the user's")
    assert again(overrides={"factor": "3"}), "changed code is run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "mine.txt",
        "provenance.json",
        "results.json",
        "tiny.csv",
        "tiny.ipynb",
    ] and not again(overrides={"factor": "3"})
    assert "factor = 3" in run(project, overrides={"factor": "3"})[1], "what was changed is said"


def test_executed_notebook_and_provenance_hold_no_machine_path(project):
    write(project, "tiny", WORKS, "import os, sys\nos.getcwd(), sys.prefix, os.path.expanduser('~/x')")
    assert run(project)[0] == 0
    for name in ("tiny.ipynb", "provenance.json"):
        text = (project / "figures/toybox/tiny" / name).read_text()
        assert str(project) not in text and sys.prefix not in text and f"{Path.home()}/" not in text
    record = json.loads((project / "figures/toybox/tiny/provenance.json").read_text())
    assert (
        record["target"] == "tiny"
        and record["parameters"]["folder"] == "figures/toybox/tiny"
        and record["settings"]["agents"] == Settings.from_profile("toybox").agents
    )
    assert (
        ".partial" not in (project / "figures/toybox/tiny/tiny.ipynb").read_text()
        and record["command"] == "rim reproduce tiny"
        and record["seeds"] == [0]
        and record["rim"]
    )
    book = nbformat.read(project / "figures/toybox/tiny/tiny.ipynb", 4)
    assert "a synthetic benchmark" in book.cells[1].source, "an executed notebook says what it is"
    assert (
        set(record["outputs"]) == {"tiny.csv", "tiny.ipynb"}
        and record["seconds"] > 0
        and record["machine"]["cores"] == os.cpu_count()
        and record["arithmetic"] == rp.steady()
    )


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
        rp.reproduce(
            ["tiny", "tabel2", "heavy"], "paper", {"agents": "4", "factr": "3"}, root=project, registry=registry
        )
    for word in ("tabel2", "factr", "did you mean 'factor'"):
        assert word in str(refusal.value)
    with pytest.raises(ValueError) as refusal:
        rp.reproduce(["heavy"], "paper", root=project, registry=registry)
    for word in ("stable-diffusion-v1-4", "sam_vit_b_01ec64.pth", "coco-object"):
        assert word in str(refusal.value)
    assert not (project / "figures").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"facter": 3}, "did you mean 'factor'"),
        ({"factor": "two"}, "factor must be of type int, got 'two'"),
        ({"loud": "maybe"}, "loud must be of type bool"),
        ({"folder": "/elsewhere"}, "folder is given by the runner"),
        ({"profile": "paper"}, "profile is given by the runner"),
        ({"agentz": 3}, "did you mean 'agents'"),
        ({"agents": "many"}, "agents"),
    ],
)
def test_parameters_are_strict(project, overrides, words):
    with pytest.raises(ValueError, match=words):
        run(project, overrides=overrides)


def test_parameters_get_their_types(project):
    bound = rp._bind(
        project / "nbs/paper/tiny.ipynb",
        Settings.from_profile("toybox"),
        {"factor": "7", "loud": "yes", "agents": "3"},
        "here",
    )
    assert bound == dict(profile="toybox", factor=7, loud=True, overrides={"shipped": "", "agents": "3"}, folder="here")


def test_the_figures_in_an_executed_notebook_are_light(tmp_path):
    import base64, io
    import numpy as np
    from PIL import Image
    from types import SimpleNamespace
    from rim.reproduce.running import _tidy

    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    shown = nbformat.v4.new_output("display_data", {"image/png": base64.encodebytes(buffer.getvalue()).decode()})
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("draw()", outputs=[shown])])
    job = SimpleNamespace(settings=Settings.from_profile("paper"), changes={}, folder=tmp_path / "figures/paper/tiny")
    (out,) = nbformat.reads(_tidy(book, tmp_path, job), 4).cells[0].outputs
    light = base64.b64decode(out.data["image/png"])
    assert len(light) < 0.8 * len(buffer.getvalue())
    assert np.abs(np.asarray(Image.open(io.BytesIO(light))).astype(int) - pixels[..., :3]).max() == 2


@pytest.mark.parametrize("parameters, words", [("a = 1", "name: type = value"), ("print(1)", "name: type = value")])
def test_an_untyped_parameter_is_refused(tmp_path, parameters, words):
    with pytest.raises(ValueError, match=words):
        rp.notebook_parameters(write(tmp_path, "tiny", parameters=parameters))


def test_exactly_one_parameters_cell(tmp_path):
    path = write(tmp_path, "tiny", WORKS)
    book = nbformat.read(path, 4)
    book.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    with pytest.raises(ValueError, match="tiny.ipynb has 2"):
        rp.notebook_parameters(path)


def test_a_cell_that_did_not_complete_is_found():
    def cell(source="1", count=1, **papermill):
        return new_code_cell(source, execution_count=count, metadata={"papermill": papermill})

    good = cell(status="completed", exception=False)
    bad = [cell(status="pending"), cell(count=None, status="completed"), cell(status="completed", exception=True)]
    assert rp._incomplete(new_notebook(cells=[good, new_markdown_cell("text"), cell("  ", None)])) == []
    assert rp._incomplete(new_notebook(cells=[good, *bad])) == [1, 2, 3]


def test_numbers_are_compared_with_the_committed_ones(project):
    git = lambda *words: subprocess.run(
        ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@y", *words],
        check=True,
        capture_output=True,
    )
    git("init", "-q")
    assert "Beside the commit: tiny.csv is not committed yet." in run(project)[1]
    git("add", "-A")
    git("commit", "-qm", "results")
    job = rp.plan(["tiny"], "toybox", {}, project, REGISTRY)[0][0]
    assert rp._comparison(job, project) == "Its table equals the committed one digit for digit."
    assert not rp._revision(project).endswith("+")
    (project / "figures/toybox/tiny/other.csv").write_text("x\n")
    assert rp._comparison(job, project) == "Beside the commit: other.csv is not committed yet." and not rp._revision(
        project
    ).endswith("+"), "results are no change of the code"
    (project / "figures/toybox/tiny/other.csv").unlink()
    (project / "new.py").touch()
    assert rp._revision(project).endswith("+")
    table = job.folder / "tiny.csv"
    table.write_text(table.read_text().replace("1.5", "2.0"))
    assert "tiny.csv is not the committed one: its numbers differ by up to 0.5" in rp._comparison(job, project)
    table.write_text("row,paper,ours\nother,,1\n")
    assert "rows or columns differ" in rp._comparison(job, project)


def test_without_a_clone_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(rp.rim, "__file__", str(tmp_path / "site-packages/rim/__init__.py"))
    with pytest.raises(FileNotFoundError, match="needs the notebooks of a clone"):
        rp.notebooks_root(tmp_path)


def test_found_from_a_folder_below(project):
    assert rp.notebooks_root(project / "nbs/paper") == project


def test_interrupted_says_what_is_done_and_exits_130(project):
    write(project, "broken", f"import time\nopen({str(project / 'begun')!r}, 'w')\ntime.sleep(60)")
    code = (
        "import sys; from rim.reproduce.command import reproduce; from rim.reproduce.registry import Target\n"
        "registry = {n: Target(n, n, f'paper/{n}.ipynb', 1) for n in ('tiny', 'broken')}\n"
        f"sys.exit(reproduce(['tiny', 'broken'], root={str(project)!r}, registry=registry))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if line.startswith("broken: running"):
            break
    wait_for((project / "begun").exists)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=40)
    assert process.returncode == 130 and "Interrupted: 1 of 2 targets are done" in rest and "+2.0" in rest
    assert [p.name for p in (project / "figures/toybox/broken").iterdir()] == ["broken.partial.ipynb"]


def test_every_registered_target_has_its_notebook_and_says_what_it_needs(root):
    for t in rp.TARGETS.values():
        parameters = rp.notebook_parameters(root / "nbs" / t.notebook)
        assert {"profile", "folder"} <= set(parameters)
        first = next(other for other in rp.TARGETS.values() if other.notebook == t.notebook)  # whose default it has
        assert parameters["folder"][1] == f"figures/{(*first.profiles, 'toybox')[0]}/{first.name}"
        assert set(t.needs) <= set(Settings.from_profile("toybox").as_dict()) and (
            t.paper or not t.name.startswith("table")
        )


def test_a_failed_run_leaves_the_result_before_it_as_it_was(project):
    assert run(project)[0] == 0
    folder = project / "figures/toybox/tiny"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write(project, "tiny", WORKS.replace("21", "22"), "raise OSError('the disk is tired')")
    code, said = run(project)
    assert code == 1 and "the disk is tired. See figures/toybox/tiny/tiny.partial.ipynb" in said
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert b"the disk is tired" in after.pop("tiny.partial.ipynb") and after == before
    write(project, "tiny", WORKS.replace("21", "22"))
    assert (
        run(project)[0] == 0
        and sorted(p.name for p in folder.iterdir()) == sorted(before)
        and "44" in (folder / "tiny.csv").read_text()
    )


RUNS = """
import sys
from rim.reproduce.command import reproduce
from rim.reproduce.registry import Target
registry = {"tiny": Target("tiny", "Tiny", "paper/tiny.ipynb", 0.1)}
sys.exit(reproduce(["tiny"], root=sys.argv[1], registry=registry, say=lambda line: print(line, flush=True)))
"""


def started(project):
    return subprocess.Popen(
        [sys.executable, "-c", RUNS, str(project)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_killed_in_the_middle_of_a_target(project):
    "The result before it stays, its kernel ends too, and the same command makes the new one."
    assert run(project)[0] == 0
    folder, log = project / "figures/toybox/tiny", project / "log"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    pid = (
        f"import os, time; Path({str(log)!r}).write_text(str(os.getpid())); time.sleep(0 if "
        f"Path({str(log)!r}).with_name('go').exists() else 60)"
    )
    write(project, "tiny", WORKS.replace("21", "22"), pid)
    process = started(project)
    wait_for(lambda: log.exists() and log.read_text())
    process.kill()
    process.wait()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    wait_for(
        lambda: (
            not Path(f"/proc/{log.read_text()}").exists()
            or "zombie" in Path(f"/proc/{log.read_text()}/status").read_text()
        )
    )
    (project / "go").touch()
    code, said = run(project)
    assert (
        code == 0
        and "done in" in said
        and "44" in (folder / "tiny.csv").read_text()
        and sorted(p.name for p in folder.iterdir()) == sorted(before)
    )
    assert [p.name for p in (folder.parent / rp._ASIDE).iterdir() if p.suffix != ".lock"] == []


def test_a_second_run_waits_for_the_first_and_finds_it_done(project):
    log = project / "log"
    waits = (
        f"import time; open({str(log)!r}, 'a').write('run\\n')\nfor _ in range(3000):\n"
        f"    if Path({str(project / 'go')!r}).exists(): break\n    time.sleep(0.02)"
    )
    write(project, "tiny", WORKS, waits)
    first = started(project)
    wait_for(lambda: log.exists())
    second, heard = started(project), []
    for line in second.stdout:
        heard.append(line)
        if "another run is making it" in line:
            (project / "go").touch()
    said = [first.communicate(timeout=120)[0], "".join(heard)]
    second.wait()
    assert first.returncode == second.returncode == 0 and log.read_text() == "run\n"
    assert "done in" in said[0] and "another run is making it" in said[1] and "up to date" in said[1]
    record = json.loads((project / "figures/toybox/tiny/provenance.json").read_text())
    assert record["outputs"] == {
        k: v
        for k, v in rp.outputs_of(project / "figures/toybox/tiny").items()
        if k not in ("provenance.json", "results.json")  # the second is written from the first
    }


def test_killed_between_two_renames_nothing_is_lost(tmp_path):
    folder = tmp_path / "figures/toybox/tiny"
    for place, text in ((folder, "old"), (rp.partial_folder(folder), "new")):
        place.mkdir(parents=True)
        (place / "tiny.csv").write_text(text)
    os.rename(folder, rp.partial_folder(folder, ".before"))
    rp.settle(folder)
    assert (folder / "tiny.csv").read_text() == "old" and not list((folder.parent / rp._ASIDE).iterdir())


def test_code_that_changes_during_a_run_is_not_taken_for_what_ran(project):
    path = project / "nbs/paper/tiny.ipynb"
    write(
        project,
        "tiny",
        WORKS,
        f"book = Path({str(path)!r}); book.write_text(book.read_text().replace('21 * factor', '22 * factor'))",
    )
    assert run(project)[0] == 0 and "42" in (project / "figures/toybox/tiny/tiny.csv").read_text()
    assert "running" in run(project)[1] and "44" in (project / "figures/toybox/tiny/tiny.csv").read_text()


def test_provenance_holds_what_the_kernel_counted(project):
    write(
        project,
        "tiny",
        WORKS,
        (
            "from rim.base.ledger import note; note('bank', dropped=3, fallbacks=1); note('evaluation', "
            "benchmark='toybox', images=3, method='rim', clamped=17, set_aside=0)"
        ),
    )
    os.environ.pop("RIM_LEDGER", None)
    code, said = run(project)
    assert code == 0 and "RIM_LEDGER" not in os.environ, said
    record = json.loads((project / "figures/toybox/tiny/provenance.json").read_text())
    assert record["counted"] == {
        "bank": [dict(dropped=3, fallbacks=1)],
        "evaluation": [dict(benchmark="toybox", images=3, method="rim", clamped=17, set_aside=0)],
    }
    assert record["peak_memory_mb"] > 20 and record["device"] == "cpu"


def test_the_index_shows_every_target_and_a_second_run_changes_nothing(project):
    write(
        project,
        "tiny",
        WORKS,
        "Path(folder, 'tiny.png').write_bytes(b'png'); Path(folder, 'aside.png').write_bytes(b'png')",
    )
    assert run(project, "tiny", "broken")[0] == 1
    page = project / "figures/README.md"
    text = page.read_text()
    for part in (
        "### tiny: Title of tiny",
        'src="toybox/tiny/tiny.png"',
        "| product | 40.0 | 42 |",
        "`rim reproduce tiny`",
        "[provenance.json](toybox/tiny/provenance.json)",
        "a synthetic benchmark",
        "Not made yet: `rim reproduce broken`",
        "`rim reproduce --profile paper`",
    ):
        assert part.lower() in text.lower(), part
    assert str(project) not in text
    run(project, force=True)
    seconds = re.compile(r"\d+ s,")  # a second run takes another time
    assert seconds.sub("", page.read_text()) == seconds.sub("", text) and seconds.search(text)
    (project / "figures/toybox/tiny/tiny.png").write_bytes(b"other")
    assert "**Changed since it was made:** tiny.png" in rp.index(project, REGISTRY)


def test_a_rehearsal_is_no_result(project):
    code, said = run(project, profile="rehearsal")
    assert (
        code == 0
        and "numbers mean nothing" in said
        and "42" not in said
        and "README.md" in said
        and not (project / "figures/README.md").exists()
    )
    text = (project / "figures/rehearsal/README.md").read_text()
    assert (
        "numbers mean nothing" in text
        and "42" not in text
        and "`rim reproduce tiny --profile rehearsal`" in text
        and "[tiny.csv](tiny/tiny.csv)" in text
    )
    assert "numbers mean nothing" in nbformat.read(project / "figures/rehearsal/tiny/tiny.ipynb", 4).cells[1].source


def test_the_paper_profile_is_judged_and_the_exit_code_says_so(project):
    code, said = run(project, profile="paper")
    assert (
        code == 3
        and "0 of 1 values lie within 1 of the paper's" in said
        and "Outside the tolerance: tiny: product." in said
    )
    registry = {"tiny": target("tiny", tolerance=2.5)}
    said = []
    assert rp.reproduce(
        ["tiny"], "paper", root=project, registry=registry, say=said.append
    ) == 0 and "1 of 1 values lie within 2.5" in "\n".join(said)
    assert run(project, profile="paper", overrides={"agents": "3"})[0] == 0, "with other settings nothing is judged"


def test_weights_are_hashed_once_and_again_when_they_change(project, monkeypatch, tmp_path_factory):
    "While they are as they were, neither torch is imported nor a byte of them read."
    folder = tmp_path_factory.mktemp("models")
    monkeypatch.setenv("RIM_MODELS", str(folder))
    weights = folder / "sam_vit_b_01ec64.pth"
    weights.write_bytes(b"weights")
    registry = {"tiny": target("tiny", needs=("sam",))}
    plan = lambda: rp.plan(["tiny"], "paper", {"benchmark": "toybox"}, project, registry)
    (job,), problems = plan()
    assert not problems and set(job.inputs) == {"sam_vit_b_01ec64.pth", "benchmark toybox"}
    code = (
        "import sys; from pathlib import Path; from rim.reproduce.jobs import plan; from "
        "rim.reproduce.registry import Target\n"
        "t = Target('tiny', 'Title of tiny', 'paper/tiny.ipynb', 0.1, needs=('sam',))\n"
        f"print(plan(['tiny'], 'paper', dict(benchmark='toybox'), Path({str(project)!r}), "
        "dict(tiny=t))[0][0].inputs['sam_vit_b_01ec64.pth'], 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        job.inputs["sam_vit_b_01ec64.pth"],
        "False",
    ]
    weights.write_bytes(b"WEIGHTS")
    assert plan()[0][0].inputs["sam_vit_b_01ec64.pth"] != job.inputs["sam_vit_b_01ec64.pth"]
    weights.unlink()
    assert "sam_vit_b_01ec64.pth" in plan()[1][0]


def test_missing_data_are_named_before_anything_runs(project, tmp_path_factory, tiny_image):
    from PIL import Image

    home, registry = tmp_path_factory.mktemp("data"), {"tiny": target("tiny", needs=("benchmark",))}
    make = lambda benchmark: rp.reproduce(
        ["tiny"], overrides={"benchmark": str(benchmark)}, root=project, registry=registry, say=lambda _: None
    )
    with pytest.raises(ValueError, match="nowhere"):
        make(home / "nowhere")
    for name in ("images", "labels"):
        (home / name).mkdir()
        Image.fromarray(tiny_image[..., 0]).save(home / name / "a.png")
    (home / "names.txt").write_text("a\nb\n")
    digests = lambda: rp._inputs_of(registry["tiny"], Settings.from_profile("toybox", benchmark=str(home)), None)[0]
    before = digests()
    os.utime(home / "labels/a.png", (1, 1))
    assert list(before) == [f"benchmark {home}"] and digests() != before
    (home / "labels/a.png").unlink()
    with pytest.raises(ValueError, match="a.png has no partner|one label map"):
        make(home)


def test_differences_are_told_digit_for_digit():
    one = "row,ours\na,1.00\nb,x\n"
    assert rp.difference(one, one) is None and rp.difference(one, one.replace("\n", "\r\n")) is None
    assert (
        rp.difference(one, one.replace("1.00", "1.25")) == "its numbers differ by up to 0.25"
        and rp.difference(one, one.replace("1.00", "1.0")) == "its numbers are written otherwise"
    )
    assert (
        rp.difference(one, one.replace("x", "y")) == "its words differ"
        and rp.difference(one, one.replace("b,", "c,"))
        == rp.difference(one, one + "c,2\n")
        == "its rows or columns differ"
    )


def test_committed_results_are_in_the_committed_index(root):
    page = (root / "figures/README.md").read_text(encoding="utf-8")
    made = [
        p.parent.relative_to(root / "figures").as_posix()
        for profile in rp._INDEXED
        for p in (root / "figures" / profile).glob("*/provenance.json")
    ]
    assert made and all(f"{folder}/provenance.json" in page for folder in made)


def test_kernels_keep_to_the_same_instructions(project, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    before = dict(os.environ)
    with rp._surroundings("there"):
        assert os.environ[VARIABLE] == "there" and {name: os.environ[name] for name in rp.steady()} == rp.steady()
        assert not rp.steady() or (os.environ["MKL_CBWR"], os.environ["ATEN_CPU_CAPABILITY"]) == (
            "COMPATIBLE",
            "avx2",
        ), "what the user has set stays"
    assert dict(os.environ) == before


def test_of_several_benchmarks_those_that_are_there_do_and_the_others_are_named(project, tmp_path):
    from layouts import make
    from rim.measure.sources import SOURCES

    make("voc21", tmp_path / "data" / SOURCES["voc21"].homes[0], 1)
    target = rp.Target(
        "tiny", "Title of tiny", "paper/tiny.ipynb", 0.1, needs=("benchmark",), benchmarks=("voc21", "context60")
    )
    said = []
    data = dict(benchmark="voc21", data_dir=str(tmp_path / "data"))
    code = rp.reproduce(["tiny"], overrides=data, root=project, registry={"tiny": target}, say=said.append)
    assert (
        code == 0
        and any("goes without benchmark context60" in line for line in said)
        and not any("goes without" in line and "voc21" in line for line in said)
    )
    with pytest.raises(ValueError, match="(?s)nothing was run.*voc21.*context60"):
        rp.reproduce(
            ["tiny"],
            overrides={**data, "data_dir": str(tmp_path / "empty")},
            root=project,
            registry={"tiny": target},
            say=said.append,
        )
