"""Table 2 as `rim reproduce` makes it, in a kernel of its own, on tiny random models."""

import json, shutil
import pytest
from tiny import MODELS
from rim.reproduce.command import reproduce
from rim.reproduce.registry import TARGETS

# test_paper runs the notebook without a kernel, and test_reproduce a kernel with less in it
pytestmark = pytest.mark.slow

TINY = dict(
    **MODELS,
    benchmark_images="3",
    images_per_class="2",
    denoising_steps="1",
    points_per_side="3",
    pred_iou_thresh="0",
    stability_score_thresh="0",
    bootstrap="20",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory, pytestconfig):
    project, said = tmp_path_factory.mktemp("project"), []
    (project / "nbs/paper").mkdir(parents=True)
    shutil.copy(pytestconfig.rootpath / "nbs/paper/table2.ipynb", project / "nbs/paper")
    shutil.copy(pytestconfig.rootpath / "settings.ini", project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(pytestconfig.rootpath))
        patch.setenv("RIM_STORE", str(project / "store"))
        code = reproduce(["table2"], overrides=TINY, root=project, say=said.append)
    assert code == 0, said
    return project / "figures/toybox/table2", "\n".join(said)


def test_everything_is_written(result):
    folder, said = result
    assert sorted(p.name for p in folder.iterdir()) == [
        "provenance.json",
        "qualitative.pdf",
        "qualitative.png",
        "results.json",
        "table2.csv",
        "table2.ipynb",
        "table2.md",
        "table2.pdf",
        "table2.png",
    ]
    assert all(name in said for name in TARGETS["table2"].paper)


def test_the_executed_notebook_is_clean(result):
    folder, _ = result
    cells = json.loads((folder / "table2.ipynb").read_text())["cells"]
    assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] in ("error", "stream")], (
        "no warning, no progress bar"
    )
    assert sum("parameters" in c["metadata"].get("tags", []) for c in cells) == 1
