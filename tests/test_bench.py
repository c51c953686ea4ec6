import json, re
import pytest, torch
from diffusers import UNet2DConditionModel
import bench.capture, bench.cost, bench.ranking, bench.startup, bench.synthesis
from bench.__main__ import main
from bench.harness import Row, alternate, table
from rim.base.settings import Settings


def test_the_table_is_printed_and_kept(tmp_path, capsys):
    main(["confusion", "--out", str(tmp_path)])
    path, read = sorted(tmp_path.iterdir())
    kept, shown = json.loads(path.read_text()), capsys.readouterr().out
    assert kept["machine"]["processor"] in shown and str(path) in shown
    assert path.suffix == ".json" and read.read_text().count("\n| ") == sum("target" in row for row in kept["rows"]) > 0
    assert len(kept["rows"]) == 8 and all(row["ours"] > 0 and row["theirs"] > 0 for row in kept["rows"])
    assert all(row["agreement"] == "equal" for row in kept["rows"] if row["other"] == "scikit-learn")
    assert all(
        float(re.search(r"\S+(?= at most)", row["agreement"])[0]) < 1e-6
        for row in kept["rows"]
        if "mmseg" in row["other"]
    )


def test_a_benchmark_that_fails_takes_no_rows_with_it(tmp_path, capsys, monkeypatch):
    def broken():
        yield Row("a", "small", 2.0)
        raise OSError("no disk")

    monkeypatch.setattr(bench.ranking, "run", broken)
    monkeypatch.setattr(bench.startup, "run", lambda: [Row("b", "small", 3.0)])
    assert main(["ranking", "startup", "--out", str(tmp_path)]) == 1
    kept = json.loads(next(tmp_path.glob("*.json")).read_text())["rows"]
    assert [row["ours"] for row in kept] == [2.0, 3.0] and "ranking failed" in capsys.readouterr().err


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "'speed'" in capsys.readouterr().err


def test_rounds_alternate():
    calls = []
    times = alternate([lambda: calls.append("a"), lambda: calls.append("b")], rounds=4, turn=0)
    assert "".join(calls) == "ab" * 5 and len(times) == 2


def test_what_is_short_is_called_several_times_in_its_turn():
    calls = []
    (time,) = alternate([lambda: calls.append(sum(range(10_000)))], rounds=3, turn=5.0)
    assert len(calls) > 10 and 0 < time < 5


def test_what_was_not_measured_is_said():
    rows = [
        Row("a", "small", 2.0, "b", 6.0, "equal"),
        Row("a", "large", None, "b", target="at most 1 ms", floor=0.5),
        Row("c", "large", 2.0, floor=0.5),
    ]
    lines = table(rows).splitlines()
    assert (
        rows[0].faster == 3
        and rows[1].faster is None
        and lines[2].count("not measured") == 3
        and "not measured" in lines[3]
        and "25%" not in lines[3]
    )
    assert "25%" in table(rows, "NVIDIA H200").splitlines()[3]


def test_capture_is_compared_on_the_same_pass():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(128, 128),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    none, explicit, gpu = bench.capture.run(side=16, unet=unet, rounds=1)
    assert (
        none.agreement.startswith("output equal")
        and float(re.search(r"\S+(?= apart)", explicit.agreement)[0]) < 1e-5
        and gpu.ours is None
    )
    assert all(type(p).__name__ == "AttnProcessor2_0" for p in unet.attn_processors.values())


def test_synthesis_paints_the_stock_pipelines_images():
    settings = Settings.from_profile(
        "toybox", pretrained=False, diffusion="tiny:diffusion", device="cpu", denoising_steps=2
    )
    row = bench.synthesis.compare("synthesis", settings, ["boat", "tree"], 1, 1, "cpu")
    apart, overlap = map(float, re.findall(r"[\d.e-]+(?= of 255)|[\d.]+$", row.agreement))
    assert row.ours > 0 and apart < 1 and overlap > 0.99


def test_costs_are_points_of_curves(monkeypatch):
    monkeypatch.setattr(bench.cost, "load_diffusion", lambda settings: None)
    rows = list(bench.cost.run(classes=(3, 5), agents=(2,), proposals=(4,), sides=(64,), images=()))
    assert [row.point for row in rows] == [
        {"classes": 3},
        {"classes": 5},
        {"agents": 2},
        {"proposals": 4},
        {"side": 64},
    ] and all(row.ours > 0 and not row.other for row in rows)


def test_starting_up_is_light():
    for row in bench.startup.run(runs=1):
        assert row.ours > 0 and "at most" in row.target
    import subprocess, sys

    heavy = "('torch', 'numpy', 'diffusers', 'transformers', 'matplotlib')"
    for words in ("import rim", "import rim.apps.cli"):
        subprocess.run([sys.executable, "-c", f"{words}, sys; assert not set({heavy}) & set(sys.modules)"], check=True)


def test_ranking_agrees_with_enumeration():
    (row,) = bench.ranking.run(sizes=[3])
    assert float(row.agreement.split()[0]) < 1e-5


@pytest.mark.slow  # the compiler
@torch.no_grad()
def test_a_compiled_form_is_compared_and_timed():
    from bench import compiled

    def small(device, dtype):
        layer = torch.nn.Linear(8, 8)
        return "a layer", layer, lambda forward: forward(torch.ones(2, 8))

    (row,) = compiled.run(loops=(small,), rounds=1)
    assert row.ours > 0 and row.theirs > 0 and row.size == "a layer, float32"
    assert re.fullmatch(r"(equal to the last bit|\S+ of the largest value apart); compiled in \d+ s", row.agreement)
