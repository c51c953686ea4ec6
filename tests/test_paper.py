"""The paper's notebooks: each is registered, says what it was given, and runs to its end on tiny random models, with
three images and with next to nothing."""

import csv, json, os, re
import matplotlib, matplotlib.figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
from PIL import Image
from conftest import ROOT
from layouts import make
from tiny import MODELS
from rim.measure.sources import SOURCES
from rim.reproduce.jobs import code_of, notebook_parameters
from rim.reproduce.provenance import _read_table
from rim.reproduce.registry import TARGETS

TINY = dict(
    **MODELS,
    benchmark_images="3",
    images_per_class="3",
    subcategories="2",
    denoising_steps="1",
    points_per_side="3",
    pred_iou_thresh="0",
    stability_score_thresh="0",
    bootstrap="20",
    diffseg_side="64",
)
BARE = {
    **TINY,
    "benchmark_images": "1",
    "images_per_class": "1",
    "subcategories": "1",
}  # as little as the rehearsal has
NOTHING = {**BARE, "pred_iou_thresh": "1"}  # and no proposal at all
OWN = {name: target for name, target in TARGETS.items() if not target.profiles}  # photographs need trained weights
FEWER = dict(
    table5=dict(draws=2),
    fig5=dict(numbers=[1, 2], thresholds=[0.3, 0.9], images=2),
    study_images_per_class=dict(numbers=[1, 2], draws=2),
    study_agents=dict(numbers=[1, 2, 5]),
    study_matching=dict(numbers=[1, 2], draws=1, validation=2),
    study_confidence=dict(validation=2, levels=[0.5]),
    study_corrections=dict(steps=[0, 1], draws=1, images=2),
    study_choices=dict(images=3, fewer=1),
    peers=dict(timed=1),
    study_background=dict(numbers=[1, 2], words="sky, water", images=1),
)  # of the settings that a notebook tries


def test_every_notebook_is_a_target_and_every_target_a_notebook():
    assert {p.name for p in (ROOT / "nbs/paper").glob("*.ipynb")} == {
        t.notebook.removeprefix("paper/") for t in TARGETS.values()
    }


@pytest.mark.parametrize("name", [name for name in OWN if name != "table2"])  # that one has many sections
def test_a_notebook_reads_like_a_section(name):
    cells = json.loads((ROOT / "nbs" / TARGETS[name].notebook).read_text())["cells"]
    prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert "**Method.**" in prose[0] or name == "fig3"
    assert prose[-1].startswith("## In short"), "it ends with what to conclude"
    parameters = notebook_parameters(ROOT / "nbs" / TARGETS[name].notebook)
    assert (
        parameters["profile"][1] == "toybox"
        and parameters["folder"][1] == f"figures/toybox/{name}"
        and parameters["overrides"][1] == {}
    )
    code = "\n".join(code_of(ROOT / "nbs" / TARGETS[name].notebook))
    assert "figures.label_profile(" in code and "figures.save(" in code and "figures.save_table(" in code
    assert not re.search(r"profile *[!=]= *[\"']", code), "no path of a profile's own"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "One for all processes of the tests, so that references are made once."
    base = tmp_path_factory.getbasetemp()
    return str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "papers")


def lay_out(figure, target, **how):
    "In place of `savefig`: all of a figure is put in its place, and nothing is painted, which takes longest."
    figure.draw_without_rendering()
    Image.new("L", (1, 1)).save(target, how["format"])


def run(name, folder, overrides, **parameters):
    "The notebook's code cells in one namespace, without a kernel."
    path = ROOT / "nbs" / TARGETS[name].notebook
    space, known = {"__name__": "__main__", "display": lambda *_: None}, notebook_parameters(path)
    given = {"profile": "toybox", "overrides": overrides, "folder": str(folder), **parameters}
    assert given.keys() <= known.keys()
    with plt.rc_context():
        for source in code_of(path):
            exec(compile(source, f"{name}.ipynb", "exec"), space)
            if "folder: str" in source:
                space.update(given)
    plt.close("all")
    return space


CASES = [
    pytest.param(name, given, id=f"{name}-{case}", marks=[pytest.mark.slow] * (name == "peers" and case != "tiny"))
    for name in OWN  # seventeen peers take seconds
    for case, given in (("tiny", TINY), ("bare", BARE), ("nothing", NOTHING))
    if (name, case) != ("table2", "tiny")  # below
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize("name, given", CASES)
def test_a_notebook_runs_to_its_end(name, given, store, tmp_path, capsys, monkeypatch):
    if given is not TINY or name not in ("table1", "fig3", "study_agents"):  # a chart, images, curves
        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lay_out)
    run(name, tmp_path / name, {**given, "store": store}, **FEWER.get(name, {}))
    assert not any(capsys.readouterr()), "nothing is printed, no progress bar"
    rows = _read_table((tmp_path / name / f"{name}.csv").read_text())
    assert rows and all(TARGETS[name].paper.get(row) == paper for row, paper, _ in rows), (
        "the paper's values are where they belong, and nowhere else"
    )
    text = (tmp_path / name / f"{name}.md").read_text()
    assert "a synthetic benchmark" in text and ("3 images" if given is TINY else "1 image ·") in text
    pictures = {p.suffix for p in (tmp_path / name).iterdir()}
    assert {".png", ".pdf"} <= pictures or name == "fig1" and given is NOTHING


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore:Number of distinct clusters")
def test_table2_says_the_same_twice(store, tmp_path):
    run("table2", tmp_path, {**TINY, "store": store})
    rows = list(csv.DictReader((tmp_path / "table2.csv").open()))
    paper = {r["row"]: float(r["paper"]) for r in rows if r["paper"]}
    assert paper == TARGETS["table2"].paper and list(paper.values()) == [26.7, 38.7, 41.8, 43.1, 44.5]
    narrowed = [r["row"] for r in rows if r["row"].endswith("only agents may win")]
    assert len(narrowed) == 2 and rows[-1]["row"] == "Oracle" and len(rows) == 8
    text = (tmp_path / "table2.md").read_text()
    for row in rows:
        assert f"| {row['row']} |" in text and f"{float(row['ours']):.1f}" in text


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.benchmarks])
def test_a_notebook_runs_on_published_layouts(name, store, tmp_path, monkeypatch):
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lay_out)
    for benchmark in ("voc21", "context60", "coco-object", "cityscapes", "ade20k"):  # the others share their files
        make(benchmark, tmp_path / "data" / SOURCES[benchmark].homes[0], 2)
    make("coco-stuff", tmp_path / "data" / SOURCES["coco-stuff"].homes[0], 2)
    wanted, got = (
        TARGETS[name].benchmarks,
        run(name, tmp_path / name, {**BARE, "benchmark": "voc21", "data_dir": str(tmp_path / "data"), "store": store}),
    )
    rows = {row for row, *_ in _read_table((tmp_path / name / f"{name}.csv").read_text())}
    if len(wanted) > 1:
        assert set(got["benchmarks"]) == set(wanted), "none is missing"
    if name == "trident_table1":
        assert all(
            f"tiny:clip, {place}{way}" in rows
            for place in ("VOC21", "Cityscapes", "ADE20K")
            for way in ("", ", plain names")
        )
    if name == "table1":
        assert set(TARGETS["table1"].paper) <= rows
