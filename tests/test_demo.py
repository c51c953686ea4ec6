"""The demo without a browser: limits, escaping, and the way from a click to a pixel. tests/browser/ drives the page
itself."""

import importlib.util, sys
import numpy as np, pytest
from PIL import Image
from rim.apps import cli
from rim.apps import demo
from rim.method.segmentation import Region, Segmentation
from rim.method.vocabulary import Vocabulary

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def result(tiny_image):
    labels = np.zeros((24, 32), int)
    labels[:, :16] = 1
    return Segmentation(
        tiny_image,
        labels,
        Vocabulary(("boat", EVIL)),
        (Region(labels == 1, (0, 0, 16, 24), 1, "boat", 0.75, ("boat", EVIL), {"boat": 0.75, EVIL: 0.5}),),
    )


@pytest.mark.parametrize(
    "text, named",
    [
        ("x" * 501, "500 letters"),
        (", ".join(f"thing {i}" for i in range(25)), "24 names"),
        ("", "class name"),
        ("boat, Boat", "once"),
    ],
)
def test_questions_have_limits(text, named):
    with pytest.raises(ValueError, match=named):
        demo._read_words(text)


def test_large_pictures_are_shrunk_and_broken_ones_refused(tmp_path):
    class Seen:
        def segment(self, image, vocabulary):
            return image.shape, vocabulary.names

    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert demo._answer(Seen(), tmp_path / "large.png", "boat") == ((512, 1024, 3), ("boat",))
    with pytest.raises(ValueError, match="bad.png"):
        demo._answer(Seen(), tmp_path / "bad.png", "boat")
    with pytest.raises(ValueError, match="an image is needed"):
        demo._answer(Seen(), None, "boat")


def test_no_name_reaches_the_page_unescaped(result):
    text = demo._legend(result) + result.explain(3, 3)._repr_html_() + result.explain(20, 3)._repr_html_()
    assert EVIL not in text and "boat 50.0%" in text and "No region" in text


def test_a_click_is_a_pixel(result):
    assert demo._pixel_of(result, (0, 0), 320) == (0, 0) and demo._pixel_of(result, (319, 239), 320) == (31, 23)
    assert demo._pixel_of(result, (320, 9999), 320) == (31, 23) and demo._pixel_of(result, (155, 100), 320) == (15, 10)


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2 and "pip install -e '.[demo]'" in capsys.readouterr().err


@pytest.mark.skipif(
    not importlib.util.find_spec("gradio"),
    reason="gradio isn't installed: pip install -e '.[demo]' in the clone, in an environment of its own",
)
def test_a_port_in_use_is_an_error_at_once():
    import socket

    with socket.create_server((demo._HOST, 0)) as taken, pytest.raises(OSError, match="in use"):
        demo.serve(None, "boat", port=taken.getsockname()[1])
