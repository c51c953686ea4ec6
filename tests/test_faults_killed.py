"""What dies, fills up or is damaged half-way: processes are killed and interrupted, files torn and flipped, disks full,
for real; then the same call goes on to the same bytes."""

import errno, json, multiprocessing, os, random, resource, signal, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings as examples, strategies as st
from PIL import Image
from tiny import MODELS
from rim.apps import cli
from rim.method import references
from rim.measure.evaluation import evaluate
from rim.method.bank import ReferenceBank
from rim.method.tools import Tools
from rim.method.segmenter import RIM
from rim.base.settings import Settings
from rim.base.files import atomic_write
from rim.base.store import Store
from rim.method.vocabulary import Vocabulary

TINY = dict(
    **MODELS,
    images_per_class=3,
    denoising_steps=2,
    subcategories=2,
    synthesis_batch=2,
    points_per_side=2,
    pred_iou_thresh=0,
    stability_score_thresh=0,
    bootstrap=20,
)
fork = multiprocessing.get_context("fork").Process  # models are loaded once, before


class Pictures:
    "Random images whose truth is in their red channel."

    name, vocabulary = "pictures", Vocabulary.of("boat, tree")
    images = np.random.default_rng(1).integers(0, 3, (4, 24, 32, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i] * 100, self.images[i][..., 0], f"picture-{i}"

    def check(self):
        pass


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile("toybox", **TINY)


@pytest.fixture(scope="module")
def tools(tiny):
    tools = Tools(tiny)
    tools.pipeline, tools.proposer, tools.encoder, tools.region_proposer, tools.region_encoder
    return tools


def whole(root, tiny, tools):
    "Build a bank and evaluate with it, everything kept in `root`; the files that come out, by name."
    store = Store(root / "store")
    rim = RIM(tiny, store=store, keep=True)
    rim.tools = rim.analyser.tools = tools
    bank = ReferenceBank.build("boat, tree", tiny, store, False, tools)
    bank.save(root / "out/bank.safetensors")
    evaluate({"rim": rim.method("boat, tree", bank)}, Pictures(), tiny, store, False).write(root / "out")
    return {
        path.name: path.read_bytes() for path in sorted((root / "out").iterdir()) if not path.name.startswith(".")
    }  # a killed writer leaves its temporary file


def entries(root):
    return {path.relative_to(root): path.read_bytes() for path in (root / "store").rglob("*.safetensors")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny, tools):
    "(files, entries of the store, seconds) of a run that nothing happened to."
    root, start = tmp_path_factory.mktemp("whole"), time.perf_counter()
    return whole(root, tiny, tools), entries(root), time.perf_counter() - start


@pytest.mark.promise(1)
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(tmp_path, tiny, tools, uninterrupted, seed):
    files, kept, seconds = uninterrupted
    rng, found = random.Random(seed), {}
    for _ in range(4):
        process = fork(target=whole, args=(tmp_path, tiny, tools))
        process.start()
        time.sleep(rng.random() * seconds)
        process.kill()
        process.join()
        now = entries(tmp_path)
        assert found.items() <= now.items() <= kept.items(), "what is there is whole, and stays"
        found = now
    assert whole(tmp_path, tiny, tools) == files and entries(tmp_path) == kept


@pytest.mark.promise(1)
def test_a_restart_loses_at_most_the_piece_in_flight(tmp_path, tiny, tools, monkeypatch):
    log, real = tmp_path / "log", references.synthesise

    def told(pipeline, items, settings):
        with log.open("a") as file:
            file.write("".join(f"{name} {k}\n" for _, name, k in items))
        return real(pipeline, items, settings)

    monkeypatch.setattr(references, "synthesise", told)
    process = fork(target=whole, args=(tmp_path, tiny, tools))
    process.start()
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        time.sleep(0.002)
    process.kill()
    process.join()
    whole(tmp_path, tiny, tools)
    painted = log.read_text().splitlines()
    assert len(set(painted)) == 6 and len(painted) <= 6 + tiny.synthesis_batch


@pytest.mark.promise(2)
def test_killed_between_writing_and_renaming_the_old_file_stays(tmp_path):
    path = atomic_write(tmp_path / "folder/file", b"old")

    def dies():
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        atomic_write(path, b"new")

    process = fork(target=dies)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and path.read_bytes() == b"old"
    assert all(p.name.startswith(".file.") for p in path.parent.iterdir() if p != path), (
        "what is left lies beside its target"
    )
    assert atomic_write(path, b"new").read_bytes() == b"new"


WRITERS = {"atomic_write", "_write_labels"}


@pytest.mark.promise(2)
def test_results_are_written_in_one_way_only(root):
    import ast

    found = []
    elsewhere = {"toybox", "exchange"}  # exports are written into a folder that gets its name when it is complete
    for file in sorted(p for p in (root / "rim").rglob("*.py") if not elsewhere & set(p.parts)):
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            mode = (
                [
                    a.value
                    for a in call.args + [k.value for k in call.keywords]
                    if isinstance(a, ast.Constant) and isinstance(a.value, str)
                ]
                if name in ("open", "fdopen")
                else []
            )
            if name in ("write_text", "write_bytes", "savetxt", "tofile", "save_file", "savez") or any(
                set(m) & set("wax") and len(m) <= 3 for m in mode
            ):
                found.append(f"{file.name}:{ast.unparse(call)}")
    allowed = {
        "workers.py:open(crash, 'w')": "a worker's last words are no result",
        "files.py:os.fdopen(handle, 'wb')": "the one way",
        "arguments.py:open(os.devnull, 'wb')": "nowhere",
        "costs.py:Path('/proc/self/clear_refs').write_text('5')": "a counter of the kernel",
        "fetching.py:log.open('w')": "in a temporary folder",
        "fetching.py:target.open('wb')": "in a temporary folder, which is renamed when it is complete",
    }
    assert set(found) == set(allowed)


DOWNSTREAM = dict(
    picture=("mask", "reference"),
    mask=("reference",),
    reference=(),
    proposals=("confusion",),
    analysis=("confusion",),
    confusion=(),
)
DAMAGES = dict(
    truncated=lambda data: data[: len(data) // 2],
    empty=lambda data: b"",
    flipped=lambda data: data[:-40] + bytes([data[-40] ^ 4]) + data[-39:],
)


@pytest.mark.promise(3)
@pytest.mark.parametrize(
    "kind, damage", [*zip(DOWNSTREAM, [*DAMAGES] * 2), ("picture", "flipped"), ("analysis", "empty")]
)
def test_a_damaged_entry_is_named_and_computed_again(tmp_path, tiny, tools, uninterrupted, kind, damage):
    for name, data in uninterrupted[1].items():
        atomic_write(tmp_path / name, data)
    for later in DOWNSTREAM[kind]:
        for path in (tmp_path / "store" / later).rglob("*.safetensors"):
            path.unlink()
    path = sorted((tmp_path / "store" / kind).rglob("*.safetensors"))[1]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path.name} is damaged and will be computed again"):
        assert whole(tmp_path, tiny, tools) == uninterrupted[0]
    assert entries(tmp_path) == uninterrupted[1]


@pytest.fixture(scope="module")
def bank_bytes(uninterrupted):
    return uninterrupted[0]["bank.safetensors"]


@pytest.mark.promise(3, 18)
@given(data=st.data())
@examples(max_examples=100)
def test_no_damage_to_a_bank_goes_unnoticed(bank_bytes, tmp_path_factory, data):
    path, flipped = tmp_path_factory.mktemp("bank") / "bank.safetensors", bytearray(bank_bytes)
    header = 8 + int.from_bytes(
        bank_bytes[:8], "little"
    )  # names and counts, then vectors and images: both get their share
    at = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(bank_bytes) - 1)))
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped if data.draw(st.booleans()) else bank_bytes[:at])
    with pytest.raises(ValueError, match="bank.safetensors"):
        ReferenceBank.load(path)


# --- full and read-only disks


def limited(size, run):
    "Run in a process that may write no file larger than `size` bytes; its exit code and what it said."

    def child(sender):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            run()
            sender.send((0, ""))
        except OSError as error:
            sender.send((error.errno, str(error)))

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = fork(target=child, args=(sender,))
    process.start()
    said = receiver.recv()
    process.join()
    return said


@pytest.mark.promise(5)
def test_a_limit_of_the_kernel_is_one_sentence_and_the_finished_part_is_kept(tmp_path, tiny, tools, uninterrupted):
    sizes = sorted(len(data) for name, data in uninterrupted[1].items() if name.parts[1] == "picture")
    code, said = limited(sizes[0] - 1, lambda: whole(tmp_path, tiny, tools))
    assert code == errno.EFBIG and said.startswith(f"[Errno {errno.EFBIG}] cannot write {tmp_path}/store/picture")
    assert not list(tmp_path.rglob("*.tmp")) and whole(tmp_path, tiny, tools) == uninterrupted[0]
    bank = tmp_path / "out/bank.safetensors"
    code, said = limited(1000, lambda: whole(tmp_path, tiny, tools))
    assert (
        code == errno.EFBIG and "bank.safetensors" in said and bank.read_bytes() == uninterrupted[0]["bank.safetensors"]
    ), "the old file stays"


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 128 kB."
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path / "disk")], capture_output=True
    ).returncode:
        pytest.skip("a small file system can't be mounted here: the limit of the kernel stands in for it")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.promise(5)
def test_a_full_disk_keeps_what_is_done(small_disk, tmp_path, tiny, tools, uninterrupted):
    with pytest.raises(OSError, match=f"cannot write {small_disk}/store/.*No space left") as caught:
        whole(small_disk, tiny, tools)
    kept = entries(small_disk)
    assert (
        caught.value.errno == errno.ENOSPC
        and kept
        and kept.items() <= uninterrupted[1].items()
        and not list(small_disk.rglob("*.tmp"))
    )
    for name, data in kept.items():
        atomic_write(tmp_path / name, data)  # a larger disk
    assert whole(tmp_path, tiny, tools) == uninterrupted[0]


@pytest.mark.promise(5)
def test_a_read_only_disk_is_named(small_disk, tiny, tools):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=f"nothing can be written to the store {small_disk}/store .*Read-only"):
        whole(small_disk, tiny, tools)


def words_of(**settings):
    return [word for key, value in (TINY | settings).items() for word in ("--set", f"{key}={value}")]


@pytest.mark.promise(5)
@pytest.mark.parametrize("where", ["store", "out"])
def test_the_command_says_in_one_sentence_that_a_folder_cannot_be_written(capsys, tmp_path, where):
    place = dict(store=tmp_path / "store", out=tmp_path / "out") | {
        where: Path("/proc/rim")
    }  # nobody can write there, not even root
    code = cli.main(
        [
            "references",
            "build",
            "--classes",
            "boat",
            "--out",
            str(place["out"] / "bank"),
            *words_of(store=place["store"]),
        ]
    )
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rim:")]
    assert code == 2 and len(said) == 1 and "/proc/rim" in said[0]


# --- Ctrl-C


def interrupted(words, pattern, out):
    """Run the command in a process of its own that gets Ctrl-C when its second file like `pattern` is there; its exit
    code and what it said."""

    def child():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with out.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        real, there = os.replace, []

        def replace(temporary, path):
            real(temporary, path)
            if path.match(pattern):
                there.append(path)
            if path.match(pattern) and len(there) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # a parent that watches may come too late on a busy machine

        os.replace = replace
        code = cli.main([str(w) for w in words])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    process = fork(target=child)
    process.start()
    process.join()
    return process.exitcode, out.read_text()


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i:02}.png")
    return sorted((tmp_path / "photos").iterdir())


def commands(tmp_path, photographs):
    "command -> (words, files of which the second brings the interrupt, whether the results are all there)"
    store, out = tmp_path / "store", tmp_path / "out"
    (tmp_path / "data/images").mkdir(parents=True), (tmp_path / "data/labels").mkdir()
    (tmp_path / "data/names.txt").write_text("background\nboat\ntree\n")
    for path in photographs:
        os.link(path, tmp_path / "data/images" / path.name)
        Image.fromarray(np.zeros((60, 90), np.uint8)).save(tmp_path / "data/labels" / path.name)
    return {
        "segment": (
            ["segment", *photographs, "--classes", "boat, tree", "--out", out],
            "out/[0-9]*.json",
            lambda: len(list(out.glob("[0-9]*.json"))) == 6,
        ),
        "references build": (
            ["references", "build", "--classes", "boat, tree", "--out", out / "bank"],
            "store/reference/*/*.safetensors",
            lambda: (out / "bank").is_file() and ReferenceBank.load(out / "bank").names == ("boat", "tree"),
        ),
        "evaluate": (
            ["evaluate", tmp_path / "data", "--worst", 0, "--out", out],
            "store/confusion/*/*.safetensors",
            lambda: (out / "report.md").is_file(),
        ),
    }


@pytest.mark.promise(14)
@pytest.mark.parametrize("which", ["segment", "references build", "evaluate"])
def test_interrupted_it_says_so_and_goes_on(tmp_path, photographs, which):
    words, pattern, there = commands(tmp_path, photographs)[which]
    words = [*words, *words_of(store=tmp_path / "store", images_per_class=3, synthesis_batch=1)]
    code, said = interrupted(words, pattern, tmp_path / "said")
    assert code == 130 and "rim: interrupted; " in said and "goes on from there" in said and "Traceback" not in said
    if which != "segment":
        assert any(f"{n} of 6 " in said for n in (1, 2)), "how far it came"
    assert not there() and not list(tmp_path.rglob("*.tmp"))
    kept = entries(tmp_path)
    assert cli.main([str(w) for w in words]) == 0 and there() and kept.items() <= entries(tmp_path).items()


NOTEBOOK = [
    "profile: str = 'rehearsal'  # profile\nfolder: str = ''  # where to\ntitle: str = ''  # any text",
    "import os, time\nfrom pathlib import Path\nPath('began').touch()",
    "time.sleep(float(os.environ['SLEEP']))",
    (
        "import json\nPath(folder).mkdir(parents=True, exist_ok=True)\n(Path(folder) / "
        "'title.json').write_text(json.dumps(title))"
    ),
]


@pytest.fixture
def clone(tmp_path):
    "A folder with one notebook, instead of a target that needs no weights."
    cells = [
        dict(
            cell_type="code",
            execution_count=None,
            id=f"c{i}",
            metadata=dict(tags=["parameters"] if not i else []),
            outputs=[],
            source=s,
        )
        for i, s in enumerate(NOTEBOOK)
    ]
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    path = tmp_path / "nbs/paper/table2.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)))
    return tmp_path


def reproduce(clone, *words, sleep=0):
    return subprocess.Popen(
        [sys.executable, "-m", "rim.apps.cli", "reproduce", "table2", "--profile", "rehearsal", *words],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(SLEEP=str(sleep), PYTHONPATH=str(Path(cli.__file__).resolve().parents[2])),
    )


CODE = """'); __import__('os').system('touch stolen') #\n\\" {__import__('os').system('touch stolen')}"""


@pytest.mark.promise(14, 17)
def test_an_interrupted_reproduction_goes_on_and_a_parameter_that_holds_code_stays_a_text(clone):
    process, deadline = reproduce(clone, "--set", f"title={CODE}", sleep=3600), time.monotonic() + 400
    while not list(clone.rglob("began")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 130 and any(
        line.startswith("Interrupted: 0 of 1 targets are done") for line in said.splitlines()
    ), said
    again = reproduce(clone, "--set", f"title={CODE}")
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said
    assert json.loads((clone / "figures/rehearsal/table2/title.json").read_text()) == CODE.strip() and not list(
        clone.rglob("stolen")
    )
