"""What the start can know is refused at the start, and what a console cannot show costs nothing."""

import errno, io, os, shlex, subprocess, sys
from pathlib import Path
import pytest
from rim.apps import arguments, cli, cli_data, cli_evaluate
from rim.base.settings import Settings
from rim.base.store import Store

TINY = dict(pretrained=False, diffusion="tiny:diffusion", sam="tiny:sam", dino="tiny:dino", images_per_class=2)


@pytest.fixture
def no_gpu(monkeypatch):
    from rim.models import roles

    monkeypatch.setattr(roles, "_devices", lambda: ["cpu"])


def said(capsys, *words):
    "(exit code, standard output, standard error) of a command, run here."
    code = cli.main(list(map(str, words)))
    return code, *capsys.readouterr()


@pytest.fixture
def image(tmp_path, monkeypatch, tiny_image):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(tiny_image).save("scene.png")
    return "scene.png"


COMMANDS = [
    ["segment", "scene.png", "--classes", "boat", "--out", "r"],
    ["segment", "scene.png", "--classes", "boat", "--out", "r", "--method", "trident"],
    ["references", "build", "--classes", "boat", "--out", "bank.safetensors"],
    ["evaluate", "toybox", "--out", "o"],
    ["doctor"],
]


@pytest.mark.promise(51)
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_device_that_is_not_there_is_refused_by_every_command(no_gpu, image, capsys, words, device):
    code, out, err = said(capsys, *words, "--set", f"device={device}")
    assert code == 2 and f"got {device!r}" in err and len(err.splitlines()) == 1 and not out


@pytest.mark.promise(51)
def test_a_device_that_is_there_may_be_named(monkeypatch):
    import torch
    from rim.models.roles import check_device

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        check_device(Settings.from_profile("toybox", device=device))
    with pytest.raises(ValueError, match="cpu, cuda:0, cuda:1"):
        check_device(Settings.from_profile("toybox", device="cuda:2"))


@pytest.mark.promise(51)
@pytest.mark.parametrize("seed", [0, 2**32, 156680208700286, 2**63 - 1])
def test_seeds_of_63_bits_reach_every_generator(seed):
    import numpy as np, torch
    from rim.measure.metrics import draw_weights
    from rim.method.references import k_means
    from rim.method.segmenter import choose_agents

    points = np.random.default_rng(0).normal(size=(6, 3))
    assert k_means(points, 2, seed).shape == (2, 3)
    assert draw_weights(3, 5, seed).shape == (5, 3)
    assert choose_agents(torch.rand(4, 5), 2, "random", seed + 2**32).shape == (4, 2)


@pytest.mark.promise(51)
def test_a_user_without_a_home_hears_what_to_set(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(ValueError, match="RIM_STORE"):
        Store("~/.cache/rim")


@pytest.mark.promise(51)
def test_a_store_that_takes_nothing_is_refused_before_anything_is_generated(tmp_path, image, capsys):
    from rim.method.references import make_references
    from rim.method.tools import Tools
    from rim.method.vocabulary import Vocabulary

    (tmp_path / "file").write_text("")
    tools = Tools(Settings.from_profile("toybox", **TINY))
    with pytest.raises(OSError, match="RIM_STORE"):
        make_references(Vocabulary.of("boat"), tools, Store(tmp_path / "file/store"), progress=False)
    assert "pipeline" not in vars(tools)
    settings = [w for k, v in dict(TINY, store=tmp_path / "file/store").items() for w in ("--set", f"{k}={v}")]
    code, out, err = said(capsys, "segment", image, "--classes", "boat", "--out", "r", *settings)
    assert code == 2 and "RIM_STORE" in err and not out


@pytest.mark.promise(51)
def test_a_folder_for_results_that_takes_none_is_refused_at_the_start(monkeypatch, tmp_path, image, capsys):
    import tempfile

    def closed(dir=None, **how):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", closed)
    for words in COMMANDS[2:4]:
        code, out, err = said(capsys, *words)
        assert code == 2 and "Permission denied" in err and not out


@pytest.mark.promise(55)
def test_a_narrow_console_escapes_what_it_cannot_show():
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    print("boat, лодка", file=arguments._Console(narrow), flush=True)
    assert narrow.buffer.getvalue() == rb"boat, \u043b\u043e\u0434\u043a\u0430" + os.linesep.encode()


GONE = """
import sys
from pathlib import Path
from rim.apps.arguments import consoles
with consoles():
    for i in range(30000):
        print("line", i)
    print("to the other stream", file=sys.stderr)
    Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.promise(55)
@pytest.mark.parametrize("lines", [GONE, GONE.replace("30000", "3")], ids=["while it works", "when it ends"])
def test_a_reader_that_goes_costs_no_work_and_makes_no_noise(tmp_path, lines):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-c", lines, str(tmp_path / "x")], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.returncode == 0 and (tmp_path / "x").read_text() == "done"
    assert process.stderr.split() == b"to the other stream".split()


@pytest.mark.promise(56)
@pytest.mark.parametrize("name", ["toybox", "voc20", "ade20k"])
def test_a_folder_that_is_named_like_a_benchmark_is_the_folder_or_refused(tmp_path, monkeypatch, tiny_image, name):
    from argparse import Namespace
    from PIL import Image
    from rim.measure.datasets import get_benchmark

    monkeypatch.chdir(tmp_path)
    for part in ("images", "labels"):
        Path(name, part).mkdir(parents=True)
        Image.fromarray(tiny_image[..., 0] * (part == "images")).save(Path(name, part, "a.png"))
    Path(name, "names.txt").write_text("background\nboat\n")
    for spelling in (f"./{name}", f"{name}/", str(tmp_path / name)):
        place = cli_evaluate._place_of(Namespace(root=None, benchmark=spelling))
        benchmark = get_benchmark(place["benchmark"], Settings.from_profile("toybox", **place))
        assert benchmark.root.resolve() == tmp_path / name
        assert benchmark.name == f"folder-{name}", "its results are kept apart from the benchmark's"
    for root, benchmark in ((None, name), (str(tmp_path), name)):
        with pytest.raises(ValueError, match="of a benchmark and of a folder"):
            cli_evaluate._place_of(Namespace(root=root, benchmark=benchmark))
    with pytest.raises(ValueError, match="of a benchmark and of a folder"):
        cli_data._data_check(Namespace(root=None, benchmark=name))


@pytest.mark.promise(51)
def test_doctor_and_loading_agree_on_half_precision_alone(tmp_path):
    from rim.models.needs import doctor
    from rim.models.roles import ROLES, resolve

    folder = tmp_path / "d16"
    for pattern in ROLES["diffusion"].needs:
        name = pattern.replace("*.safetensors", "model.fp16.safetensors").replace("*", "x")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    settings = Settings.from_profile("toybox", diffusion=str(folder))
    row = next(row for row in doctor(settings) if row.name == str(folder))
    assert not row.present and "unet/*.safetensors" in row.where and "half-precision" in row.where
    with pytest.raises(FileNotFoundError, match="half-precision"):
        resolve(str(folder), settings)
    for file in folder.rglob("*.fp16.safetensors"):
        (file.parent / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert resolve(str(folder), settings) == folder, "a file in parts is whole"


def words_of(command):
    "What a shell makes of a command: its words, with the marks between commands skipped."
    return list(shlex.shlex(command, posix=True, punctuation_chars=True))


@pytest.mark.promise(57)
@pytest.mark.parametrize("place", ["/content/drive/My Drive", "/home/o'neill", "/data/$x;(y)"])
def test_every_command_that_is_printed_can_be_pasted(tmp_path, monkeypatch, capsys, place):
    from rim.apps.doctor import findings

    settings = Settings.from_profile("paper", benchmark="voc21", data_dir=f"{place}/data", models_dir=f"{place}/models")
    commands = {row.name: row.command for row in findings(settings)}
    assert f"{place}/models/{settings.sam}" in words_of(commands[settings.sam])
    assert f"{place}/data" in words_of(commands["voc21"])
    folder = tmp_path / place[1:] / "scenes"
    assert cli.main(["toybox", "scene", "--seed", "3", "--size", "32", "--out", str(folder)]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:2] == ["rim", "segment"] and all(Path(word).exists() for word in (words[2], words[4]))


@pytest.mark.promise(54)
def test_figures_are_in_the_house_style_whatever_the_user_prefers(tmp_path):
    import matplotlib.pyplot as plt
    from matplotlib.text import Text
    from rim.measure import figures, style

    settings = Settings.from_profile("toybox")
    theirs = {"text.usetex": True, "font.size": 30, "axes.grid": True, "savefig.facecolor": "black"}
    bytes_ = []
    for rc in ({}, theirs):
        with plt.rc_context(rc):
            fig = style.label_profile(figures.bars(["a", "b"], [1, 2], title="t"), settings, 3)
            paths = style.save(fig, tmp_path, f"x{len(rc)}")
            assert not any(text.get_usetex() for text in fig.findobj(Text))
            bytes_.append(paths[0].read_bytes())
            plt.close(fig)
    assert bytes_[0] == bytes_[1]


@pytest.mark.promise(54)
def test_a_command_opens_no_window(root, tmp_path):
    code = (
        "import sys; from rim.apps.cli import main; main(sys.argv[1:]); import matplotlib; "
        "print(matplotlib.get_backend())"
    )
    words = ["store", "list", "--set", f"store={tmp_path}"]
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1].lower() == "agg", done.stderr


SCRIPT = """
from rim.base.engine import run
print(run(list, [1, 2], "processes"))
"""


@pytest.mark.promise(58)
def test_a_script_without_a_guard_ends_and_hears_why(tmp_path, root):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 1 and "__main__" in done.stderr.strip().splitlines()[-1]
    assert done.stderr.count("Traceback") == 1, "the workers add no noise"
