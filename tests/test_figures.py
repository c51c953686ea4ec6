"""Figures: stamped with their profile, saved as png and vector pdf, the same bytes for the same numbers."""

import io
from pathlib import Path
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from rim.measure import figures, grids, style
from rim.base.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def example():
    return figures.bars(["one", "two"], [40.0, 55.5], [38.0, 53.0], [42.0, 58.0], [26.7, None], title="Two rows")


def texts(fig):
    return [t.get_text() for t in fig.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize(
    "profile, words",
    [("toybox", "a synthetic benchmark"), ("rehearsal", "random weights"), ("paper", "paper profile")],
)
def test_stamp_says_which_profile_on_what(profile, words):
    fig = style.label_profile(example(), Settings.from_profile(profile), 240)
    (stamp,) = [t for t in texts(fig) if words in t]
    assert "240 images" in stamp and "seed 0" in stamp


def test_one_image_and_many_seeds():
    line = style.profile_line(Settings.from_profile("toybox"), 1, [1, 2])
    assert "1 image ·" in line and "seeds 1, 2" in line


def test_images_are_written_with_64_shades_that_nobody_tells_from_256(tmp_path):
    rng, style_of = np.random.default_rng(0), dict(format="png", bbox_inches="tight", metadata={"Software": None})
    photo = np.cumsum(rng.normal(0, 2, (300, 300, 3)), 1).clip(-100, 155).astype(np.int16) + 100
    fig = figures.overlay_grid([[photo.astype(np.uint8)] * 2], columns=["a", "b"])
    png, pdf = style.save(fig, tmp_path, "photo")
    with plt.style.context(style._HOUSE):
        fig.savefig(buffer := io.BytesIO(), **style_of)
        fig.savefig(plain := io.BytesIO(), format="pdf", bbox_inches="tight")
    before, after = (np.asarray(Image.open(f).convert("RGB")).astype(int) for f in (buffer, png))
    assert before.shape == after.shape and np.abs(before - after).max() <= 2 and (after[before == 255] == 255).all()
    assert png.stat().st_size < 0.75 * len(buffer.getvalue()) and pdf.stat().st_size < 0.8 * len(plain.getvalue())
    assert style.save(fig, tmp_path / "again", "photo")[1].read_bytes() == pdf.read_bytes()


def test_charts_keep_every_colour():
    with plt.style.context(style._HOUSE):
        example().savefig(buffer := io.BytesIO(), format="png", bbox_inches="tight")
    light = style.light_png(buffer.getvalue())
    before, after = (np.asarray(Image.open(f).convert("RGB")) for f in (buffer, io.BytesIO(light)))
    assert (before == after).all() and len(light) < len(buffer.getvalue())
    seethrough = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 8, 4), "RGBA").save(seethrough, "PNG")
    assert (
        np.asarray(Image.open(io.BytesIO(style.light_png(seethrough.getvalue())))) == np.arange(256).reshape(8, 8, 4)
    ).all()


def test_results_are_small_enough_to_be_cloned():
    "A figure or table has at most 1 MiB; an executed notebook, which holds all its figures, 2 MiB."
    most = lambda path: 2**21 if path.suffix == ".ipynb" else 2**20
    found = [p for p in (ROOT / "figures").rglob("*") if p.is_file()]
    assert found and [p.relative_to(ROOT).as_posix() for p in found if p.stat().st_size > most(p)] == []


def test_saved_as_png_and_vector_pdf(tmp_path):
    png, pdf = style.save(example(), tmp_path / "new", "bars")
    assert Image.open(png).size[0] > 600
    head = pdf.read_bytes()
    assert head.startswith(b"%PDF") and b"/Subtype /Image" not in head, "a bar chart holds no bitmap"


def test_same_numbers_same_bytes(tmp_path):
    first, second = (style.save(example(), tmp_path / name, "bars") for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_style_does_not_leak():
    before = dict(plt.rcParams)
    example()
    assert dict(plt.rcParams) == before


def test_colours_stay_apart_for_red_green_blindness():
    "Simulated deuteranopia (Viénot 1999, linear RGB): no two of the first four colours come closer than 0.1."
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in style.COLOURS[:4]]) ** 2.2
    seen = rgb @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.1


def test_value_grid_shows_absent_values():
    shown = texts(grids.value_grid([[91, np.nan], [8, 64]], ["a", "b"], ["boat", "tree"]))
    assert "91" in shown and "–" in shown


def test_value_grid_of_differences_is_centred():
    fig = grids.value_grid([[-5.0, 10.0]], ["a"], ["boat", "tree"], centre=0)
    assert fig.axes[0].images[0].get_clim() == (-10, 10)


def test_overlay_grid_takes_arrays_pil_and_uneven_rows():
    picture = np.zeros((8, 8, 3), np.uint8)
    fig = grids.overlay_grid(
        [[picture, Image.fromarray(picture)], [picture]], columns=["left", "right"], rows=["a", "b"]
    )
    assert len(fig.axes) == 4 and {"left", "right", "a", "b"} <= set(texts(fig))


def test_cut_out_is_the_box_with_a_margin():
    image, mask = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), bool)
    mask[8:12, 10:20] = True
    cut = grids.cut_out(image, mask, margin=2)
    assert cut.shape == (8, 14, 3) and (cut[2:6, 2:12] == 100).all() and (cut[0] > 200).all()
    assert grids.cut_out(image, np.zeros((20, 30), bool)) is image


def test_region_gallery_of_many():
    image, masks = np.zeros((16, 16, 3), np.uint8), np.eye(16, dtype=bool)[:, None, :].repeat(16, 1)
    assert len(grids.region_gallery(image, masks[:9], [f"r{i}" for i in range(9)], across=4).axes) == 12


CURVE = [(50, 53, 56), (54, 57, 60), (53, 56, 59)]


def test_curves_show_series_bands_level_and_setting():
    fig = figures.curves(
        [
            dict(x=[1, 4, 16], series={"one": CURVE}, title="(a)", xlabel="T", chosen=4, levels={"cosine": 55}),
            dict(x=[0.3], series={"one": CURVE[:1]}, title="(b)"),
        ]
    )
    left, right = fig.axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["one", "cosine", "setting in use"]
    assert left.lines[0].get_ydata().tolist() == [53, 57, 56] and len(left.collections) == 1
    assert [t.get_text() for t in left.get_xticklabels()] == ["1", "4", "16"] and left.lines[2].get_xdata()[0] == 1
    assert len(right.lines) == 1, "a setting that isn't on the axis isn't drawn"


def test_a_flat_curve_looks_flat():
    low, high = figures.curves([dict(x=[1, 2], series={"one": [(50, 50, 50), (50.1, 50.1, 50.1)]})]).axes[0].get_ylim()
    assert high - low >= 10


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_one_region_named_twice(n):
    from rim.method.ranking import ranking_distribution, ranking_permutations

    names, p = ["car", "boat", "moon", "tree", "sun"][:n], ranking_distribution(np.linspace(1, 0.5, n))
    fig = figures.individual_or_relational(
        np.zeros((16, 16, 3), np.uint8),
        np.eye(16, dtype=bool),
        names,
        np.linspace(0.5, 0.4, n),
        ranking_permutations(n).numpy(),
        {"region": p, "reference": p},
        np.linspace(0.4, 0.5, n),
        "car",
        "a note",
    )
    shown = texts(fig)
    assert (
        "car ✓" in shown
        and "a note" in shown
        and "Individually" in shown
        and "By ranking" in shown
        and len(fig.axes[3].patches) == 2 * min(len(p), 24)
    )


def test_feature_maps_draw_every_region_and_reference():
    points, owner = np.random.default_rng(0).normal(size=(9, 2)), np.repeat(range(3), 3)
    fig = figures.feature_maps(
        [
            dict(points=points, owner=owner, stars=np.eye(3, 2), title="a", note="n"),
            dict(points=points[:0], owner=owner[:0], stars=np.eye(3, 2), title="b"),
        ],
        ["x", "y", "z"],
    )
    assert sum(len(c.get_offsets()) for c in fig.axes[0].collections) == 9 + 3
    assert [t.get_text() for t in fig.axes[-1].get_legend().get_texts()] == ["x", "y", "z", "reference"]


def test_comparison_keeps_reported_and_measured_apart():
    fig = figures.comparison(
        [
            dict(title="theirs", reported={"a": 40.0, "b": 50.0}, measured={}),
            dict(title="ours", reported={}, measured={"b": (1, 2, 3)}),
        ],
        ["a", "b"],
        bold=["b"],
    )
    theirs, ours = fig.axes
    marks = [line for line in theirs.lines if len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in marks] == [40, 50] and all(
        line.get_markerfacecolor() == "white" for line in marks
    )
    assert [p.get_width() for p in ours.patches] == [2] and "D" not in [line.get_marker() for line in ours.lines]
    assert {t.get_text(): t.get_fontweight() for t in theirs.get_yticklabels()} == {"a": "normal", "b": "bold"}


def test_ticks_titles_and_labels_of_neighbours_do_not_collide():
    grid = [[np.zeros((8, 8, 3), np.uint8)] * 4] * 3
    names = ["image", "smaller\non top", "higher score\non top", "ground truth"]
    drawn = [
        figures.comparison([dict(title="PASCAL Context", reported={"m": 40}, measured={})] * 4, ["m", "n"]),
        figures.bars(["+ ranking distribution, only agents may win"] * 3, [31.6, 100, 5], [30, 99, 4], [33, 100, 6]),
        grids.overlay_grid(grid, columns=names, rows=["+34 points", "-32 points", "-31 points"], side=1.5),
        example(),
    ]
    for fig in drawn:
        fig.canvas.draw()
        ticks = [t for ax in fig.axes if ax.axison for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
        texts = [*ticks, *(title for ax in fig.axes for title in (ax.title, ax._left_title))]
        boxes = [t.get_window_extent() for t in texts if t.get_text() and t.get_visible()]
        assert len(boxes) > 3 and not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_single_seeds_are_ticks_and_a_table_without_the_papers_values_has_no_such_mark():
    fig = figures.bars(["one", "two"], [40, 50], paper=[None, None], single={"two": [49, 51]})
    marks = {line.get_label(): line.get_xdata() for line in fig.axes[0].lines}
    assert list(marks["single seeds"]) == [49, 51] and len(marks["reported in the paper"]) == 0
    both = figures.bars(["one", "two"], [40, 50], single={"one": [39, 41], "two": [49, 51]})
    listed = [text.get_text() for text in both.axes[0].get_legend().get_texts()]
    assert listed.count("single seeds") == 1 and len(listed) == len(set(listed))


def last_lines(path):
    "Height of the lowest block of ink in an image, and of the white above it, in pixels."
    rows = (np.asarray(Image.open(path).convert("L")) < 250).any(1)[::-1]
    first = rows.argmax()
    height = (~rows[first:]).argmax()
    return height, rows[first + height :].argmax()


@pytest.mark.parametrize("classes", [3, 20])
def test_the_stamp_lies_below_everything(tmp_path, classes):
    from rim.method.vocabulary import Vocabulary

    words = Vocabulary(tuple(f"class {i}" for i in range(classes)))
    fig = grids.add_classes(grids.overlay_grid([[np.zeros((8, 8, 3), np.uint8)] * 4]), words, range(classes + 1))
    assert len(fig.legends[0].get_texts()) == classes, "the background isn't listed"
    others = [
        figures.comparison([dict(title="a", reported={"m": 40}, measured={})] * 3, ["m", "n"]),
        figures.curves([dict(x=[1, 2], series={k: CURVE[:2] for k in "abcd"}, chosen=1)]),
        example(),
    ]
    for drawn in (fig, *others):
        path, _ = style.save(style.label_profile(drawn, Settings.from_profile("toybox"), 3), tmp_path, "stamped")
        height, gap = last_lines(path)
        assert height < 20 and gap > 2, "one line of small type, apart from what is above it"
    for drawn in (fig, others[0]):
        foot = min(ax.get_tightbbox().y0 for ax in drawn.axes)
        assert drawn.legends[0].get_window_extent().y1 <= foot, "and the legend lies below the images"


def test_tables_hold_the_papers_values_in_their_own_column(tmp_path):
    settings, rows = (
        Settings.from_profile("toybox"),
        {"Rand": (50.0, 53.14, 55.2), "none": (np.nan, np.nan, np.nan), "small": (0.1, 0.1234, 0.2)},
    )
    text = style.table_text(rows, settings, 5, {"Rand": 43.8}, "COCO-Object", seeds=[1, 2])
    assert (
        "| Rand | 53.1 | 50.0 – 55.2 | 43.8 |" in text
        and "| none | – | – | – |" in text
        and "seeds 1, 2" in text
        and "a synthetic benchmark" in text
    )
    assert "reported" not in style.table_text(rows, settings, 5)
    path = style.save_table(tmp_path / "new", "t", rows, text, {"Rand": 43.8})
    assert path.read_text() == "row,paper,ours,low,high\nRand,43.8,53.14,50.00,55.20\nnone,,,,\nsmall,,0.1234,0.1,0.2\n"
    assert (tmp_path / "new/t.md").read_text() == text + "\n"


def test_a_notebook_shows_every_figure(root):
    """The backend is chosen by the first figure; chosen within rc_context, its interactive mode was lost, and the
    second figure was never shown."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    draw = "fig = figures.value_grid([[1, 2]], ['a'], ['b', 'c']);"
    book = new_notebook(cells=[new_code_cell(source) for source in ("from rim import figures", draw, draw)])
    NotebookClient(book, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(root)}}).execute()
    assert [["image/png" in o.get("data", {}) for o in c.outputs] for c in book.cells[1:]] == [[True], [True]]
