"""Engines: the same outcomes whoever works, dies, or is interrupted; and a Ray that nobody else can reach."""

import ast, json, os, pickle, signal, subprocess, sys, time
from importlib.util import find_spec
import pytest
from engine_work import Deadly, Methods, Unfit, Work
from tiny import MODELS
from rim.base.engine import Engine, run
from rim.base.ray_crew import _ALONE, _LOOPBACK, Ray, _ray_arguments, _ray_variables
from rim.base.workers import failure, threads, variables


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "log")


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def two(name):
    return Engine(name, workers=2 if name != "serial" else 0)


@pytest.fixture(scope="module")
def ray():
    "One cluster of our own for all tests, as `run` starts it; where Ray is installed, it has to start."
    if not find_spec("ray"):
        pytest.skip("Ray is not installed: pip install -e '.[ray]'")
    try:
        Ray(int, Engine("ray", workers=2))
    except OSError:  # it waits for its own processes for half a minute, too short beside much other work
        sys.modules["ray"].shutdown()
        Ray(int, Engine("ray", workers=2))
    import ray  # not before: Ray reads how it is to be protected when it is imported

    yield ray
    ray.shutdown()


SLOW_RAY = pytest.param("ray", marks=pytest.mark.slow)  # to start Ray takes fifteen seconds


@pytest.fixture(params=["serial", "processes", SLOW_RAY])
def engine(request):
    if request.param == "ray":
        request.getfixturevalue("ray")
    return two(request.param)


def test_outcomes_come_in_the_order_of_the_items_and_work_is_loaded_once_per_worker(engine, work):
    heard = []
    outcomes = run(work, [*range(8), "bad"], engine, heard=heard.append)
    assert [o.value for o in outcomes[:8]] == [i * i for i in range(8)] and [o.index for o in outcomes] == list(
        range(9)
    )
    assert outcomes[8].error == "ValueError: a bad image" and 'raise ValueError("a bad image")' in outcomes[8].trace
    assert work.lines().count("bad") == 1, "what an item raises, it would raise again"
    assert 1 <= work.lines().count("loaded") == len(work.pids()) <= engine.crew and sorted(
        o.index for o in heard
    ) == list(range(9))
    if engine.name != "serial":
        assert os.getpid() not in work.pids()


@pytest.mark.promise(15)
@pytest.mark.parametrize("name", ["processes", SLOW_RAY])
def test_a_deadly_item_is_set_aside_after_three_attempts_and_the_others_are_done(name, work, request):
    if name == "ray":
        request.getfixturevalue("ray")
    outcomes = run(work, [1, "kill", 2, "kill once" if name == "ray" else "crash", 3, 4], two(name))
    assert [o.value for o in outcomes if isinstance(o.item, int)] == [1, 4, 9, 16]
    assert "its worker died 3 times" in outcomes[1].error and outcomes[1].trace and work.lines().count("kill") == 3
    if name == "processes":
        assert "SIGKILL" in outcomes[1].error and "SIGABRT" in outcomes[3].error and "in do" in outcomes[3].trace, (
            "a crash tells where it was"
        )
        assert not any(map(alive, work.pids()))
    else:
        assert outcomes[3].error.startswith("TypeError") and work.lines().count("kill once") == 2, (
            "the second worker lived to see the item"
        )


def test_a_worker_that_dies_once_is_replaced(work):
    outcomes = run(work, [1, "kill once", 3], Engine("processes", workers=1))
    assert (
        [o.index for o in outcomes if o.value] == [0, 2]
        and "TypeError" in outcomes[1].error
        and work.lines().count("loaded") == 2
    )


@pytest.mark.parametrize("engine", ["serial", "processes", SLOW_RAY], indirect=True)
def test_what_concerns_every_item_ends_the_run(engine, work):
    with pytest.raises(OSError, match="No space"):
        run(work, ["full", "full", *range(50)], engine)
    assert len(work.lines()) <= 4
    with pytest.raises(FileNotFoundError, match="no weights"):
        run(Unfit(), [1, 2], engine)


def test_workers_that_die_on_everything_end_the_run():
    with pytest.raises(RuntimeError, match="die on every item: killed by SIGKILL"):
        run(Deadly(), range(50), two("processes"))


def test_threads_are_shared_out(work, monkeypatch):
    assert run(work, ["threads"], two("processes"))[0].value == os.environ["OMP_NUM_THREADS"]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for module in ("engine", "workers"):
        monkeypatch.setattr(f"rim.base.{module}.cores", lambda: 8)
    assert set(threads(3).values()) == {"2"} and set(threads(16).values()) == {"1"} and Engine("processes").crew == 4


def test_nothing_to_do():
    assert run(Unfit(), [], "processes") == []


@pytest.mark.parametrize(
    "words, match",
    [
        (dict(name="threads"), "one of serial, processes, ray"),
        (dict(name="processes", workers=-1), "0 or more"),
        (dict(address="host:1"), "belong to the engine ray"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(words, match):
    with pytest.raises(ValueError, match=match):
        Engine(**words)


def test_an_exception_that_cannot_travel_is_told_in_words():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(a)

    told = pickle.loads(pickle.dumps(failure(Odd("why", 2))))
    assert told.error == "Odd: why" and isinstance(told.exception, RuntimeError)


def test_the_environment_is_put_back(monkeypatch):
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), variables({"OMP_NUM_THREADS": "9", "NEW": "1"}):
        assert os.environ["NEW"] == "1"
        1 / 0
    assert dict(os.environ) == before


STOPPED = """
import sys
from engine_work import Work
from rim.base.engine import Engine, run
if __name__ == "__main__":
    try: run(Work(sys.argv[1]), [1, 2, 3, "slow", "slow"], Engine("processes", workers=2), things="images")
    except KeyboardInterrupt as stop: print(stop); sys.exit(130)
"""


@pytest.mark.promise(14)
def test_interrupted_no_worker_stays(work, tmp_path, root):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    process = subprocess.Popen(
        [sys.executable, script, work.log],
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/tests"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (os.path.exists(work.log) and work.lines().count("slow") == 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the workers too
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "3 of 5 images are done" in said and not any(map(alive, work.pids()))


def test_a_killed_parent_leaves_nobody_waiting(tmp_path, root):
    "Workers that are done with their item when the parent is gone end by themselves."
    work, script = Work(tmp_path / "log"), tmp_path / "killed.py"
    script.write_text(
        STOPPED.replace('"slow", "slow"', '"kill parent"')
        .replace("from rim", "import os, signal\nfrom rim")
        .replace(
            'things="images")',
            'things="images", heard=lambda o: os.kill(os.getpid(), signal.SIGKILL) if o.index == 2 else None)',
        )
    )
    subprocess.run(
        [sys.executable, script, work.log],
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/tests"},
        timeout=60,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while any(map(alive, work.pids())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert work.pids() and not any(map(alive, work.pids()))


def listening(pids):
    "Addresses that processes listen on, from /proc."
    sockets = {
        os.readlink(f"/proc/{pid}/fd/{fd}")
        for pid in pids
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.path.islink(f"/proc/{pid}/fd/{fd}")
    }
    rows = [line.split() for table in ("tcp", "tcp6") for line in open(f"/proc/net/{table}").read().splitlines()[1:]]
    return [row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def family(pid):
    "A process and all its descendants."
    found = [pid]
    for one in found:
        for task in os.listdir(f"/proc/{one}/task"):
            found += map(int, open(f"/proc/{one}/task/{task}/children").read().split())
    return found


@pytest.mark.promise(16)
def test_ray_is_told_to_be_quiet_and_alone():
    told, arguments = _ray_variables(), _ray_arguments(2)
    assert (
        told["RAY_AUTH_MODE"] == "token"
        and len(told["RAY_AUTH_TOKEN"]) == 64
        and told["RAY_USAGE_STATS_ENABLED"] == "0"
    )
    assert (
        arguments["include_dashboard"] is False
        and arguments["_node_ip_address"] == _LOOPBACK == "127.0.0.1"
        and arguments["address"] == "local"
    )
    joined, there = _ray_variables("there:1"), _ray_arguments(2, "there:1")
    assert joined["RAY_USAGE_STATS_ENABLED"] == "0" and not any(name.startswith("RAY_AUTH") for name in joined), (
        "the token of a running cluster is its owner's"
    )
    assert there["address"] == "there:1" and "num_cpus" not in there


@pytest.mark.slow
@pytest.mark.promise(16)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ray_listens_on_this_machine_alone_and_wants_its_token(ray):
    local = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    found = listening(family(os.getpid()))
    assert len(found) >= 3 and set(found) <= local, found
    assert not ray._private.worker.global_worker.node.webui_url, "no dashboard"
    visitor = (
        "from ray._raylet import GcsClient; "
        f"print(len(GcsClient(address={ray.get_runtime_context().gcs_address!r}).get_all_node_info(timeout=20)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", visitor],
        env={**os.environ, **_ALONE, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "uthentication token is missing or incorrect" in done.stderr, done.stderr[-400:]


@pytest.mark.promise(1)
@pytest.mark.parametrize("name", ["processes", SLOW_RAY])
def test_an_evaluation_is_the_serial_one_byte_for_byte_whoever_dies(name, tmp_path, request):
    if name == "ray":
        request.getfixturevalue("ray")
    from rim.measure.folders import ToyboxBenchmark
    from rim.measure.evaluation import evaluate
    from rim.base.settings import Settings
    from rim.base.store import Store

    benchmark, settings = ToyboxBenchmark(8, size=64), Settings.from_profile("toybox", bootstrap=50)
    whole = evaluate(Methods(), benchmark, settings, Store(tmp_path / "serial"), False)
    report = evaluate(
        Methods(3, 1, str(tmp_path / "deaths")), benchmark, settings, Store(tmp_path / "many"), False, engine=two(name)
    )
    assert (report.confusions["bright"] == whole.confusions["bright"]).all() and len(
        (tmp_path / "deaths").read_text().split()
    ) == 2
    for one, folder in ((report, "a"), (whole, "b")):
        one.write(tmp_path / folder)
    for kind in ("a", "serial"):
        files = [p.relative_to(tmp_path / kind) for p in (tmp_path / kind).rglob("*") if p.is_file()]
        assert files and all(
            (tmp_path / kind / f).read_bytes() == (tmp_path / {"a": "b", "serial": "many"}[kind] / f).read_bytes()
            for f in files
        )


@pytest.mark.slow  # three workers load Trident; with lighter work the test above shows the same
@pytest.mark.weights
@pytest.mark.promise(1)
def test_the_tutorial_kills_a_worker_and_the_numbers_are_the_same(ray, root, monkeypatch):
    "Its cells, with the cluster that is there; `nbdev-test` would skip what needs the toybox's weights."
    cells = json.loads((root / "nbs/tutorials/05_many_machines.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    space, shown = {"__name__": "__main__"}, []
    for source in code:
        *lines, last = ast.parse(source).body
        exec(compile(ast.Module(lines, []), "tutorial", "exec"), space)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "tutorial", "eval"), space))
        else:
            exec(compile(ast.Module([last], []), "tutorial", "exec"), space)
    (_, killed, workers), (files, difference) = [value for value in shown if isinstance(value, tuple)]
    assert (killed, workers) == (1, 4) and files > 0 and difference == 0


@pytest.mark.promise(15)
def test_an_image_that_kills_is_set_aside_and_listed(tmp_path):
    from rim.measure.folders import ToyboxBenchmark
    from rim.measure.evaluation import Unmeasured, evaluate
    from rim.base.settings import Settings
    from rim.base.store import Store

    benchmark, settings = ToyboxBenchmark(6, size=64), Settings.from_profile("toybox", bootstrap=50)
    report = evaluate(
        Methods(2, 99, str(tmp_path / "deaths"), fails=4),
        benchmark,
        settings,
        Store(tmp_path / "store"),
        False,
        keep_going=True,
        engine=two("processes"),
    )
    assert len(report.items) == 4 and [(a.index, a.item) for a in report.aside] == [
        (2, "image 2"),
        (4, f"'bright' on {benchmark[4][2]!r}"),
    ]
    assert (
        "died 3 times: killed by SIGKILL" in report.aside[0].error
        and report.aside[1].error == "RuntimeError: too dark"
        and "raise RuntimeError" in report.aside[1].trace
    )
    report.write(tmp_path / "out")
    assert "image 2" in (tmp_path / "out/set_aside.txt").read_text()
    with pytest.raises(ValueError, match="needs a store"):
        evaluate({"m": lambda image: image[..., 0]}, benchmark, settings, None, False, engine=two("processes"))


@pytest.mark.slow  # a worker imports all libraries of the models
def test_a_bank_is_the_serial_one(tmp_path):
    from rim.method.bank import ReferenceBank
    from rim.base.settings import Settings
    from rim.base.store import Store

    tiny = Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=2,
        denoising_steps=1,
    )
    whole, many = (
        ReferenceBank.build("boat, tree", tiny, Store(tmp_path / engine.name), False, engine=engine)
        for engine in (two("serial"), Engine("processes", workers=1))  # one: each imports the models' libraries
    )
    assert many.digest == whole.digest and many.record == whole.record
    with pytest.raises(ValueError, match="needs a store"):
        ReferenceBank.build("boat", tiny, None, False, engine=two("processes"))


def test_threads_follow_the_setting_then_the_variable_then_the_idle_cores(monkeypatch):
    from rim.base import workers

    count = workers.thread_count.__wrapped__  # without what was decided before
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert count(3) == 3 and count(0) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    for idle, threads in ((7.9, 8), (3.4, 3), (0.2, 1), (None, 8)):
        monkeypatch.setattr(workers, "_idle_cores", lambda: idle)
        assert count(0) == threads and count(5) == 5


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="the system does not tell")
def test_a_busy_core_is_not_idle():
    from rim.base import workers

    assert 0 <= workers._idle_cores(0.3) <= workers.cores()
