"""Figures: stamped with their profile, saved as png and vector pdf, the same bytes for the same numbers."""
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from rim import figures
from rim.settings import Settings

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")

def example():
    return figures.bars(["one", "two"], [40.0, 55.5], [38.0, 53.0], [42.0, 58.0], [26.7, None], title="Two rows")

def texts(fig): return [t.get_text() for t in fig.findobj(matplotlib.text.Text)]

@pytest.mark.parametrize("profile, words", [("toybox", "a small world of our own"), ("rehearsal", "random weights"), ("paper", "paper profile")])
def test_stamp_says_which_profile_on_what(profile, words):
    fig = figures.label_profile(example(), Settings.from_profile(profile), 240)
    stamp, = [t for t in texts(fig) if words in t]
    assert "240 images" in stamp and "seed 0" in stamp

def test_one_image_and_many_seeds():
    line = figures.profile_line(Settings.from_profile("toybox"), 1, [1, 2])
    assert "1 image ·" in line and "seeds 1, 2" in line

def test_saved_as_png_and_vector_pdf(tmp_path):
    png, pdf = figures.save(example(), tmp_path / "new", "bars")
    assert Image.open(png).size[0] > 600
    head = pdf.read_bytes()
    assert head.startswith(b"%PDF") and b"/Subtype /Image" not in head, "a bar chart holds no bitmap"

def test_same_numbers_same_bytes(tmp_path):
    first, second = (figures.save(example(), tmp_path / name, "bars") for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]

def test_style_does_not_leak():
    before = dict(plt.rcParams)
    example()
    assert dict(plt.rcParams) == before

def test_colours_stay_apart_for_red_green_blindness():
    "Simulated deuteranopia (Viénot 1999, linear RGB): no two of the first four colours come closer than 0.1."
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in figures.COLOURS[:4]]) ** 2.2
    seen = rgb @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.1

def test_value_grid_shows_absent_values():
    shown = texts(figures.value_grid([[91, np.nan], [8, 64]], ["a", "b"], ["boat", "tree"]))
    assert "91" in shown and "–" in shown

def test_value_grid_of_differences_is_centred():
    fig = figures.value_grid([[-5.0, 10.0]], ["a"], ["boat", "tree"], centre=0)
    assert fig.axes[0].images[0].get_clim() == (-10, 10)

def test_overlay_grid_takes_arrays_pil_and_uneven_rows():
    picture = np.zeros((8, 8, 3), np.uint8)
    fig = figures.overlay_grid([[picture, Image.fromarray(picture)], [picture]], columns=["left", "right"], rows=["a", "b"])
    assert len(fig.axes) == 4 and {"left", "right", "a", "b"} <= set(texts(fig))

def test_cut_out_is_the_box_with_a_margin():
    image, mask = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), bool)
    mask[8:12, 10:20] = True
    cut = figures.cut_out(image, mask, margin=2)
    assert cut.shape == (8, 14, 3) and (cut[2:6, 2:12] == 100).all() and (cut[0] > 200).all()
    assert figures.cut_out(image, np.zeros((20, 30), bool)) is image

def test_region_gallery_of_many():
    image, masks = np.zeros((16, 16, 3), np.uint8), np.eye(16, dtype=bool)[:, None, :].repeat(16, 1)
    assert len(figures.region_gallery(image, masks[:9], [f"r{i}" for i in range(9)], across=4).axes) == 12
