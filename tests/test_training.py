"Training of the toybox models: resumable, seeded, never half a file."

import json, os, signal, subprocess, sys, time
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from engine_work import draw
from forked import forked
from rim.toybox import training
from rim.toybox.ahead import Ahead
from rim.toybox.fair_start import _NEIGHBOURS, fair_start, _shift, waves
from rim.toybox.training import _Run, _load_task, _rate, save_half, train


def test_a_task_is_asked_for_by_name():
    with pytest.raises(ValueError, match="gan"):
        _load_task("gan")


def test_rate_warms_up_holds_and_decays():
    assert _rate(0, 0, 100) == pytest.approx(0.01) and _rate(500, 0.3, 100) == 1
    assert 0 < _rate(5000, 0.999, 100) < 0.05


FEW = dict(batch=8, scenes=2, portraits=3)  # seeds that a step of CLIP takes


def test_a_step_is_determined_by_its_seeds(tmp_path):
    def losses():
        torch.manual_seed(0)
        run = _Run(_load_task("clip", **FEW), tmp_path)
        return [training._step(run, 0.1, 0, None) for _ in range(3)]

    assert losses() == losses()


class TinyTask(training.Task):
    "A layer that learns the mean colour; small enough that what is tested is the loop around it."

    name, record, draw = "tiny", "tiny/record.json", staticmethod(draw)

    def __init__(self):
        layer, memory = torch.nn.Linear(3, 1), torch.nn.Linear(1000, 1000)  # the second makes a file that takes a while
        self.modules = torch.nn.ModuleDict(dict(layer=layer, memory=memory))

    def load(self, folder):
        self.modules.load_state_dict(load_file(folder / "tiny/model.safetensors"))

    def save(self, folder):
        save_half(self.modules, folder / "tiny/model.safetensors")

    def loss(self, seeds, generator):
        colours = torch.as_tensor(np.stack(self.drawn(seeds(4)))).float().mean((1, 2)) / 255
        return (self.modules["layer"](colours) - colours.sum(1, keepdim=True)).square().mean(), {}


def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(training.TASKS, "tiny", f"{__name__}:TinyTask")
    call = "tiny", 0.002, tmp_path / "state", tmp_path / "out", "cpu"
    first, second = train(*call, fresh=True), train(*call)
    assert second["steps"] > first["steps"] > 0 and second["train_seeds"] == [0, 4 * second["steps"]]
    (tmp_path / "state/tiny.pt").unlink()  # from the weights and their record alone
    assert train(*call)["steps"] > second["steps"]


@pytest.mark.weights
def test_a_task_loads_what_it_saved(tmp_path):
    task = _load_task("clip", **FEW)
    task.load(training.WEIGHTS)
    task.save(tmp_path)
    for file in (tmp_path / "clip").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(training.WEIGHTS / "clip" / file.name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_kill_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(training.TASKS, "tiny", f"{__name__}:TinyTask")
    process = forked(
        lambda: train("tiny", 5, tmp_path, tmp_path / "out", "cpu", every=0, fresh=True), tmp_path / "said"
    )
    for _ in range(600):
        if (tmp_path / "tiny.pt").exists():
            break
        time.sleep(0.1)
    time.sleep(0.3)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    state = torch.load(tmp_path / "tiny.pt", weights_only=True)
    assert state["step"] > 0 and all(
        torch.isfinite(v).all() for v in state["modules"].values() if v.is_floating_point()
    )


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other))


def test_examples_drawn_ahead_are_those_of_their_seeds():
    ahead = Ahead(draw, 1)
    for first in (0, 6, 12, 18, 500, 506):  # goes on, and starts over elsewhere
        assert same(ahead(range(first, first + 6)), draw(range(first, first + 6)))
    assert len(ahead.coming) == ahead.reach - 1
    ahead.close()
    assert not ahead.pool._processes


def test_the_number_of_workers_changes_no_loss(tmp_path):
    def losses(workers):
        torch.manual_seed(0)
        run = _Run(TinyTask(), tmp_path, workers=workers)
        found = [training._step(run, 0.1, 0, None) for _ in range(3)]
        run.close()
        return found

    assert losses(0) == losses(1)


def test_workers_need_a_task_that_says_how_examples_are_drawn(tmp_path):
    with pytest.raises(ValueError, match="draw"):
        train("clip", 0.01, tmp_path, tmp_path, "cpu", workers=2)
    with pytest.raises(ValueError, match="-1"):
        Ahead(sum, -1)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import sys, time\n"
        "from rim.toybox.ahead import Ahead\n"
        "if __name__ == '__main__':\n"
        "    ahead = Ahead(sum, 1)\n"
        "    ahead(range(4))\n"
        "    print(*ahead.pool._processes, flush=True)\n"
        "    time.sleep(100)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    workers = list(map(int, parent.stdout.readline().split()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    alive = lambda pid: os.path.exists(f"/proc/{pid}") and " Z " not in open(f"/proc/{pid}/stat").read()
    for _ in range(100):
        if not any(map(alive, workers)):
            break
        time.sleep(0.1)
    assert workers and not any(map(alive, workers))


def test_a_sheet_is_four_portraits_with_their_own_words():
    from rim.toybox.groupvit import _draw, _quarters

    images, captions, present = _draw(range(100, 109), scenes=1)
    assert images.shape == (3, 64, 64, 3) and len(captions) == 1 and present.shape == (9, 28)
    assert (present[1:].sum(1) == 2).all() and present[1:, :16].sum() == 8  # a thing and a place each
    alone = _draw(range(100, 105), scenes=1)  # the same seeds without the second sheet
    assert np.array_equal(images[:2], alone[0]) and np.array_equal(present[:5], alone[2])
    patches = torch.as_tensor(images[1:]).float().unflatten(1, (16, 4)).unflatten(3, (16, 4)).mean((2, 4)).flatten(1, 2)
    quarters = _quarters(patches)
    assert quarters.shape == (8, 64, 3)
    corner = torch.as_tensor(images[2, 32:, :32]).float()  # third quarter of the second sheet
    assert torch.allclose(quarters[6].mean(0), corner.mean((0, 1)), atol=1e-3)


def test_heads_start_at_the_neighbours():
    conv, positions = torch.nn.Conv2d(3, 128, 4, 4), torch.zeros(64, 128)
    layer = [torch.zeros(128, 128), torch.zeros(128), torch.zeros(128, 128), torch.zeros(128)]
    fair_start(conv, torch.rand(8, 3, 32, 32), positions, [layer])
    q, k = positions @ layer[0].T, positions @ layer[2].T
    for head, (y, x) in enumerate(_NEIGHBOURS):
        rows = slice(16 * head, 16 * head + 16)
        best = (q[:, rows] @ k[:, rows].T).argmax(1).reshape(8, 8)
        for r, c in ((3, 3), (4, 5), (2, 6)):
            assert best[r, c] == (r + y) * 8 + c + x
    assert torch.allclose(waves(8)[9] @ _shift(2, 1).T, waves(8)[9 + 17], atol=1e-5)


def test_masked_positions_are_resized_as_a_grid():
    from rim.toybox.mae import _reconstruct, _start_mae

    model = _start_mae().eval()
    table, resize = model.decoder.decoder_pos_embed, model.decoder.interpolate_pos_encoding
    assert torch.allclose(resize(torch.zeros(1, 257, 64)), table, atol=1e-5)
    small = resize(torch.zeros(1, 65, 64))[0, 1:].reshape(8, 8, 64)
    grid = table[0, 1:].reshape(16, 16, 64)
    assert torch.allclose(
        small[3, 4],
        torch.nn.functional.interpolate(grid.permute(2, 0, 1)[None], (8, 8), mode="bicubic")[0, :, 3, 4],
        atol=1e-5,
    )
    pixels, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 64)
    with torch.no_grad():
        loss, patches, hidden = _reconstruct(model, pixels, noise)
    assert (
        patches.shape == (2, 64, 48)
        and (hidden.sum(1) == 48).all()
        and (hidden.bool() == (noise >= noise.sort(1).values[:, 16:17])).all()
    )
    error = (patches - model.patchify(pixels)).square().mean(2)
    assert torch.allclose(loss, error[hidden.bool()].mean(), atol=1e-5)


def test_segments_are_things_and_the_place():
    from rim.toybox.maskformer import _segments

    instances = np.zeros((16, 16), np.uint8)
    instances[2:10, 2:10], instances[12:14, 12:14] = 1, 2  # the second is too small to count
    masks, labels = _segments(instances)
    assert (
        labels.tolist() == [0, 1]
        and masks.shape == (2, 8, 8)
        and masks[0].sum() == 16
        and masks[1].sum() == 64 - 16 - 1
    )


def test_the_last_layers_loss_is_the_librarys():
    from rim.toybox.maskformer import _all_layers_loss, _start_maskformer

    torch.manual_seed(0)
    model, pixels = _start_maskformer().eval(), torch.randn(2, 3, 64, 64)
    masks, labels = (
        [(torch.rand(k, 32, 32) > 0.5).float() for k in (1, 3)],
        [torch.tensor([1]), torch.tensor([0, 0, 1])],
    )
    with torch.no_grad():
        loss, parts = _all_layers_loss(model, pixels, masks, labels)
        assert torch.allclose(
            sum(parts.values()), model(pixels, mask_labels=masks, class_labels=labels).loss, rtol=1e-4
        )
    assert loss > sum(parts.values())  # the earlier layers answer too


@pytest.mark.weights
@pytest.mark.parametrize(
    "file",
    [
        "diffusion/record.json",
        "diffusion/vae/record.json",
        "sam/record.json",
        "dino/record.json",
        "dino/teacher.json",
        "clip/record.json",
        "mae/record.json",
        "maskformer/record.json",
        "groupvit/record.json",
    ],
)
def test_records_say_how_the_weights_came_about(file):
    record = json.loads((training.WEIGHTS / file).read_text())
    assert {"train_seeds", "steps", "minutes", "machine", "metrics", "revision", "seed", "curve"} <= set(record)
    assert record["train_seeds"][1] <= 1_000_000 and record["steps"] > 0 and np.isfinite(record["loss"])


@pytest.mark.weights
def test_weights_are_small_and_safe():
    files = [f for f in training.WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 30e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt"}
