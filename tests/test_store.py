import errno, os, signal, subprocess, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from rim.base.files import address, atomic_write, canonical
from rim.base.store import _META, Store, file_digest, _pack, _unpack

KEY = dict(name="boat", seed=3, settings=dict(guidance=3.0, layers=[8, 16], pretrained=True, note=None))
ARRAYS = dict(
    image=np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    attention=np.linspace(0, 1, 4, dtype=np.float32),
    mask=np.eye(2, dtype=bool),
    half=np.ones(3, np.float16),
    label=np.int64(7),
    nothing=np.zeros((0, 3)),
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_what_is_put_is_got(store):
    assert store.get("references", KEY) is None
    store.put("references", KEY, ARRAYS, dict(redraws=1))
    found, record = store.entry("references", KEY)
    assert record == dict(redraws=1) and set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (
            found[name].dtype == np.asarray(array).dtype
            and found[name].shape == np.shape(array)
            and np.array_equal(found[name], array)
        )
    assert [(key, record) for _, key, record in store.list("references")] == [(KEY, dict(redraws=1))]


def test_arrays_of_any_layout_come_back_whole(store):
    views = dict(t=np.arange(6).reshape(2, 3).T, step=np.arange(10)[::3], big=np.arange(3, dtype=">i4"))
    store.put("views", KEY, views)
    assert all(np.array_equal(array, views[name]) for name, array in store.get("views", KEY).items())


def test_equal_entries_are_equal_files():
    assert (
        len(
            {
                _pack({name: KEY[name] for name in order}, ARRAYS, dict(a=1, b=2))
                for order in (list(KEY), list(reversed(KEY)))
                for _ in range(8)
            }
        )
        == 1
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), values, max_size=4))
def test_the_address_depends_on_content_only(key):
    assert address(key) == address(dict(reversed(key.items())))
    assert address(key) != address(dict(key, another=1)) or key.get("another") == 1


@pytest.mark.parametrize(
    "key", [dict(x=float("nan")), {1: 2}, dict(x=[object()]), dict(x={3}), dict(x=np.int64(1)), dict(x=b"bytes")]
)
def test_a_key_that_is_no_json_is_refused(key):
    with pytest.raises(ValueError, match="key"):
        address(key)


def test_arrays_of_text_or_objects_are_refused(store):
    for array in (np.array(["a"]), np.array([object()]), np.array([1j])):
        with pytest.raises(ValueError, match="'x'"):
            store.put("references", KEY, dict(x=array))


@pytest.mark.parametrize("kind", ["", "..", "a/b", "/tmp", "A"])
def test_no_kind_leaves_the_store(store, kind):
    with pytest.raises(ValueError, match="kind"):
        store.path(kind, KEY)


DATA = _pack(KEY, ARRAYS, dict(redraws=1))


@pytest.mark.promise(3, 18)
@given(st.integers(0, len(DATA) * 8 - 1))
@settings(max_examples=300)
def test_every_flipped_bit_is_found(bit):
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError):
        _unpack(bytes(data), KEY)


@pytest.mark.promise(3, 18)
@given(st.integers(0, len(DATA) - 1))
@settings(max_examples=100)
def test_every_truncation_is_found(length):
    with pytest.raises(ValueError):
        _unpack(DATA[:length], KEY)


@pytest.mark.promise(3)
@pytest.mark.parametrize(
    "data",
    [b"", DATA[:-1], DATA + b"x", b"{}", b"\x00" * 64, _pack(dict(KEY, seed=4), ARRAYS, {})],
    ids=["empty", "short", "long", "json", "zeros", "other key"],
)
def test_a_damaged_entry_is_named_removed_and_absent(store, data):
    path = store.put("references", KEY, ARRAYS)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=path.name):
        assert store.get("references", KEY) is None
    assert not path.exists()
    store.put("references", KEY, ARRAYS)
    assert store.get("references", KEY) is not None


@pytest.mark.promise(17)
def test_nothing_in_an_entry_is_executed(store, tmp_path):
    import pickle

    path = store.path("references", KEY)
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(os.system))
    with pytest.warns(UserWarning):
        assert store.get("references", KEY) is None


@pytest.mark.promise(2)
def test_a_failing_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = atomic_write(tmp_path / "a" / "file", b"old")

    def fails(file):
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, fails)
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(RuntimeError("between write and rename")))
    with pytest.raises(RuntimeError):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_no_half_file(tmp_path):
    path = atomic_write(tmp_path / "file", b"old")

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"cannot write .*file: No space") as caught:
        atomic_write(path, full)
    assert caught.value.errno == errno.ENOSPC and path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.promise(5)
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        atomic_write(tmp_path / "file" / "below", b"")


def test_the_mode_is_the_users(tmp_path):
    umask = os.umask(0)
    os.umask(umask)
    assert atomic_write(tmp_path / "file", "text").stat().st_mode & 0o777 == 0o666 & ~umask


WRITER = """
import sys, itertools, numpy as np
from rim.base.store import Store
store = Store(sys.argv[1])
for n in itertools.count():
    store.put("a", dict(slot=n % 3), dict(x=np.full(200_000, n % 3)), dict(n=0))
    print(n, flush=True)
"""


@pytest.mark.promise(1)
def test_killed_at_any_moment_no_entry_is_half(store, root):
    for wait in (0.0, 0.003, 0.011, 0.027):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE, cwd=root)
        for _ in range(4):
            process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for slot in range(3):
                assert (store.get("a", dict(slot=slot))["x"] == slot).all()


def build(root):
    store = Store(root)
    for _ in range(20):
        if store.get("a", KEY) is None:
            time.sleep(0.001)
            store.put("a", KEY, ARRAYS)
        elif np.random.default_rng().random() < 0.5:
            store.put("a", KEY, ARRAYS)
    return file_digest(store.path("a", KEY))


@pytest.mark.promise(4)
def test_sixteen_processes_one_value(store):
    with ProcessPoolExecutor(16) as pool:
        assert len(set(pool.map(build, [store.root] * 16))) == 1
    assert [(f.kind, f.temporary) for f in store.scan()] == [("a", False)] and all(
        wrong is None for _, wrong in store.verify()
    )


def test_digests(tmp_path):
    (tmp_path / "mod_a.py").write_text("x = 2\n")
    folder = file_digest(tmp_path)
    (tmp_path / "more").write_text("")
    assert file_digest(tmp_path) != folder
    with pytest.raises(FileNotFoundError, match="none"):
        file_digest(tmp_path / "none")


def filled(store, n=3):
    for slot in range(n):
        os.utime(store.put("masks", dict(slot=slot), dict(x=np.zeros(100))), (time.time() - 86400 * slot,) * 2)
    store.put("picture", KEY, ARRAYS)
    return store


def left_behind(store, age):
    path = store.path("masks", dict(slot=0)).parent / f".{'0123456789' * 4}.abc.tmp"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_verify_names_what_is_damaged_and_nothing_else(store):
    filled(store)
    cut, strange, swapped = (store.path("masks", dict(slot=slot)) for slot in range(3))
    cut.write_bytes(cut.read_bytes()[:-1])
    strange.write_bytes(b"")
    swapped.write_bytes(_pack(dict(slot=9), dict(x=np.zeros(3)), {}))
    wrong = {file.path: wrong for file, wrong in store.verify() if wrong}
    assert set(wrong) == {cut, strange, swapped} and "address" in wrong[swapped] and all(p.exists() for p in wrong)
    assert sum(bool(wrong) for _, wrong in store.verify(["picture"])) == 0
    assert sum(bool(wrong) for _, wrong in store.verify(remove=True)) == 3 and not any(p.exists() for p in wrong)
    assert [wrong for _, wrong in store.verify()] == [None]


@pytest.mark.parametrize(
    "how, kept",
    [
        (dict(), 4),
        (dict(older_than=1.5 * 86400), 3),
        (dict(kinds=["masks"]), 1),
        (dict(kinds=["masks"], older_than=0.5 * 86400), 2),
        (dict(limit=0), 0),
        (dict(limit=10**9), 4),
        (dict(kinds=["picture"], limit=0), 3),
    ],
)
def test_prune_removes_what_was_asked_for(store, how, kept):
    filled(store)
    old, new = left_behind(store, 7200), store.root / "masks" / "notes.txt"
    new.write_text("not ours")
    wanted = store.prune(**how, dry_run=True)
    assert len(list(store.scan())) == 5 and store.prune(**how) == wanted
    assert (
        sum(not f.temporary for f in store.scan()) == kept
        and old.exists() == (how.get("kinds") == ["picture"])
        and new.exists()
    )


def test_prune_by_size_keeps_the_newest(store):
    filled(store)
    size = sum(f.size for f in store.scan())
    gone = store.prune(limit=size - 1)
    assert [f.path for f in gone] == [store.path("masks", dict(slot=2))] and not store.path(
        "masks", dict(slot=2)
    ).exists()


def test_what_a_writer_is_writing_stays_and_what_is_not_ours_too(store, tmp_path):
    filled(store)
    young, outside = left_behind(store, 60), Store(tmp_path / "outside")
    outside.put("masks", KEY, ARRAYS)
    (store.root / "linked").symlink_to(outside.root / "masks")
    (store.root / "masks" / "zz").mkdir()
    (store.root / "masks" / "zz" / f"{'0' * 64}.safetensors").write_text("not ours")
    (store.root / "masks" / "00").mkdir(exist_ok=True)
    (store.root / "masks" / "00" / f"{'1' * 64}.safetensors").write_text("in the wrong folder")
    before = {p for p in store.root.rglob("*") if p.is_file()}
    store.prune(kinds=["masks", "picture", "linked"], limit=0)
    assert (
        young.exists()
        and len(before - {p for p in store.root.rglob("*") if p.is_file()}) == 4
        and len(outside.list("masks")) == 1
    )
    assert list(Store(tmp_path / "nowhere").scan()) == []


def test_a_damaged_entry_in_a_store_that_may_only_be_read_is_absent(store, monkeypatch):
    path = store.put("masks", KEY, ARRAYS)
    path.write_bytes(b"")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(path), "unlink", refuse)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get("masks", KEY) is None
