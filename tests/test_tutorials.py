"""The tutorial on many machines, run in a kernel of its own as in JupyterLab; `nbdev-test`, which runs the others,
would skip what needs the toybox's weights."""

import os
import nbformat, pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


@pytest.mark.weights
@pytest.mark.promise(1)
def test_a_worker_is_killed_and_the_numbers_are_the_same(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(root / "nbs/tutorials/05_many_machines.ipynb", 4)
    try:
        NotebookClient(
            notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": str(root / "nbs/tutorials")}}
        ).execute()
    except CellExecutionError as error:
        if "Ray could not start" not in str(error):
            raise
        pytest.skip(f"NOT TESTED: {error.evalue}")
    shown = [
        "".join(o["data"]["text/plain"])
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if o.output_type == "execute_result"
    ]
    assert shown[-2].endswith("1, 4)") and shown[-1].endswith("0.0)"), shown
