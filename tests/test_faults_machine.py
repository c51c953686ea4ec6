"""Machines as they are: file systems that refuse, homes that are closed, kernels and styles of someone else."""

import errno, json, os, stat, sys
from pathlib import Path
import pytest
from rim.base.settings import Settings
from rim.base.files import atomic_write
from rooms import reproduce as rp

REFUSALS = [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS]


def refusing(real, number, when=lambda *args: True):
    "The system call `real`, but refused with an error number."

    def call(*args, **kwargs):
        if when(*args):
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    return call


def a_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


@pytest.mark.promise(52)
@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize(
    "call, when", [("fsync", a_folder), ("fsync", lambda handle: True), ("chmod", lambda *a: True)]
)
def test_a_file_is_written_where_the_file_system_knows_less_than_posix(tmp_path, monkeypatch, number, call, when):
    monkeypatch.setattr(os, call, refusing(getattr(os, call), number, when))
    assert atomic_write(tmp_path / "new/x.txt", "hello").read_text() == "hello"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.txt"]


@pytest.mark.promise(52)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_or_broken_disk_stays_an_error(tmp_path, monkeypatch, number):
    atomic_write(tmp_path / "x.txt", "old")
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, number))
    with pytest.raises(OSError, match="cannot write .*x.txt"):
        atomic_write(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "old"


@pytest.mark.promise(52)
def test_a_target_is_made_where_locks_are_unknown(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refusing(fcntl.flock, errno.ENOLCK))
    entered = []
    with pytest.warns(UserWarning, match="cannot be locked"):
        with rp.alone(tmp_path / "figures/toybox/tiny", lambda: pytest.fail("nobody else is there")):
            entered.append(True)
    assert entered


WRITERS = {
    "text": str,
    "repr": repr,
    "ascii": ascii,
    "json": json.dumps,
    "json of text": lambda path: json.dumps(path, ensure_ascii=False),
    "json of ascii": lambda path: json.dumps(ascii(path)),
    "file in it": lambda path: f"{path}/deep/er.png",
    "json of a traceback": lambda path: json.dumps(f"\x1b[0;32m{path}/mine.py\x1b[0m in line 3\n"),
    "json of a line": lambda path: json.dumps(f"{path}\n"),
    "json of a repr": lambda path: json.dumps(f'"{path}"'),
    "url": lambda path: Path(path).as_uri(),
}


@pytest.mark.promise(53)
@pytest.mark.parametrize("user", ["jürgen", "Ævar's", 'o"neill', "李雷", "back\\slash", "an na"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_spelling_of_a_path_tells_who_made_a_result(tmp_path, monkeypatch, user, writer):
    home = tmp_path / user
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for path in (home, home / "rim", home / "data/mine"):
        said = rp.anonymous(WRITERS[writer](str(path)), home / "rim")
        told = [user, *(spelling.split("/")[-1] for spelling in rp._spellings(user))]
        assert not writer.startswith("json") or json.loads(said), "JSON stays JSON"
        assert not [word for word in told if word in said] and str(tmp_path) not in said, said


@pytest.mark.promise(53)
def test_places_that_the_settings_name_are_told_by_their_variables(tmp_path):
    settings = Settings.from_profile(
        "toybox", store="/scratch/anna/store", data_dir="/scratch/anna", benchmark="/projects/anna/boats"
    )
    said = rp.anonymous("/scratch/anna/store/x, /scratch/anna/voc, '/projects/anna/boats'", tmp_path, settings)
    assert said == "$RIM_STORE/x, $RIM_DATA/voc, '.../boats'"


@pytest.mark.promise(53)
@pytest.mark.parametrize("home", ["/", ""])
def test_a_home_that_is_the_root_changes_no_address(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    assert (
        rp.anonymous("https://example.org//x and /usr/share/x", tmp_path) == "https://example.org//x and /usr/share/x"
    )


@pytest.mark.promise(54)
def test_notebooks_run_in_this_environment_whoever_is_called_python3(tmp_path, monkeypatch):
    spec = tmp_path / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(dict(argv=["/other/bin/python", "-m", "x"], display_name="x", language="python")))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert rp.own_kernel()(kernel_name="python3").kernel_spec.argv[0] == sys.executable
    assert "/other/bin/python" in rp.foreign_kernel() and sys.executable in rp.foreign_kernel()
    spec.write_text(json.dumps(dict(argv=["python", "-m", "x"], display_name="x", language="python")))
    assert rp.foreign_kernel() is None


@pytest.mark.promise(54)
def test_a_kernel_obeys_neither_start_up_files_nor_styles_of_the_user(tmp_path, monkeypatch):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "mine.py"))
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "rc"))
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "mine.py").write_text("stranger = 1")
    (tmp_path / "rc").write_text("text.usetex: True\n")
    start = tmp_path / "ipython/profile_default/startup/0.py"
    start.parent.mkdir(parents=True)
    start.write_text("guest = 1")
    look = "import matplotlib.pyplot as plt\nassert not plt.rcParams['text.usetex']\nplt.figure()"
    cells = [
        new_code_cell('folder: str = "x"', metadata={"tags": ["parameters"]}),
        new_code_cell(f"assert not {{'stranger', 'guest'}} & set(globals())\n{look}"),
    ]
    path = tmp_path / "clone/nbs/paper/tiny.ipynb"
    path.parent.mkdir(parents=True)
    kernel = dict(name="python3", display_name="python3", language="python")
    nbformat.write(new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)
    said, registry = [], {"tiny": rp.Target("tiny", "Tiny", "paper/tiny.ipynb", 0.1)}
    assert rp.reproduce(["tiny"], root=tmp_path / "clone", registry=registry, say=said.append) == 0, said
