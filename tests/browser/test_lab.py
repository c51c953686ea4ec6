"""The widgets in a real browser: JupyterLab in both themes and at two widths, driven by Chromium. Needs chromium on the
PATH and `pip install playwright`; without them it is skipped, and says so."""

import json, os, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
import nbformat, pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
try:
    from playwright.sync_api import TimeoutError, sync_playwright
except ImportError:
    sync_playwright = None

pytestmark = [
    pytest.mark.slow,  # starts two servers, two kernels and a browser: a minute or two
    pytest.mark.skipif(
        CHROMIUM is None or sync_playwright is None,
        reason="NOT TESTED IN A BROWSER: needs chromium on the PATH and the Python package playwright",
    ),
]

TOKEN = "for-this-test-alone"
CELLS = [
    """import numpy as np
from rim.method.segmenter import RIM
from rim.base.settings import Settings
from rim.apps.widgets import ExplainWidget, MatchingWidget
models = dict(diffusion="tiny:diffusion", sam="tiny:sam", dino="tiny:dino", clip="tiny:clip")
tiny = Settings.from_profile("toybox", pretrained=False, **models, images_per_class=4, denoising_steps=2,
                             subcategories=2, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)
rim, image = RIM(tiny), np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
rim.bank_for("sun, <b>boat</b>", progress=False);""",
    'labels = MatchingWidget(rim, image, "sun, <b>boat</b>")\nExplainWidget(labels.first, place=(3, 4))',
    "labels",
]


def start_lab(place, home, root, theme, cells, name="widgets.ipynb"):
    "A JupyterLab with one notebook: its process and its address."
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )
    settings = place / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    (place / "work").mkdir()
    nbformat.write(nb, place / "work" / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(place / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(place / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(place / "spaces"),
        "JUPYTER_RUNTIME_DIR": str(place / "run"),
        "IPYTHONDIR": str(place / "ipython"),
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={place / 'work'}",
        "--allow-root",
    ]
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return server, f"http://127.0.0.1:{port}"


def wait_for(address):
    "Until a JupyterLab answers."
    for _ in range(120):
        try:
            return urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=1)
        except OSError:
            time.sleep(0.5)


@contextmanager
def running_labs(started):
    "Addresses of JupyterLabs, by name, until they are no longer needed."
    try:
        for _, address in started.values():
            wait_for(address)
        yield {name: address for name, (_, address) in started.items()}
    finally:
        for server, _ in started.values():
            server.terminate()
        for server, _ in started.values():
            server.wait(20)


@pytest.fixture
def lab(tmp_path, root):
    "Addresses of a notebook in a JupyterLab of its own, one per theme."
    themes = ("JupyterLab Light", "JupyterLab Dark")
    with running_labs(
        {theme: start_lab(tmp_path / theme.split()[1], tmp_path / "home", root, theme, CELLS) for theme in themes}
    ) as addresses:
        yield addresses


def brightness(page, selector, what):
    return page.eval_on_selector(
        selector, f"e => getComputedStyle(e).{what}.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    )


def run_all(page, address, name="widgets.ipynb"):
    "Open a notebook and run it."
    page.set_viewport_size({"width": 1400, "height": 1300})
    page.goto(f"{address}/lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=90_000)
    page.click(".jp-Notebook .jp-CodeCell >> nth=0")
    for _ in range(12):  # a kernel that connects late forgets what it was asked
        page.click('text="Run"')
        page.click('text="Run All Cells"')
        try:
            page.wait_for_function(
                '/\\[(\\*|\\d+)\\]/.test(document.querySelector(".jp-Notebook .jp-InputPrompt").textContent)',
                timeout=5_000,
            )
            return
        except TimeoutError:
            continue


def run_cells(page, address):
    "Both widgets are there afterwards."
    run_all(page, address)
    page.wait_for_selector(".rim-right b", timeout=180_000)
    page.wait_for_selector(".rim-view .rim-stage", timeout=60_000)
    assert page.inner_text(".rim-right b") == "(3, 4)"


def use_widgets(page):
    "Click, move by key, slide; each is answered."
    box = page.locator(".rim-left .rim-stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 64.5 / 128, box["y"] + box["height"] * 48.5 / 96)
    page.wait_for_function('document.querySelector(".rim-right b").textContent == "(64, 48)"')
    page.keyboard.press("ArrowRight")
    page.wait_for_function('document.querySelector(".rim-right b").textContent == "(66, 48)"')
    assert page.locator(".rim-widget b >> text=boat").count() == 0 and "<b>boat</b>" in page.inner_text(
        ".rim-view"
    )  # names are text, never markup
    page.locator(".rim-controls input").first.fill("1")
    page.wait_for_function('document.querySelector(".rim-controls output").textContent == "1"')
    assert page.evaluate(
        '[...document.querySelectorAll(".rim-widget")].every(e => e.scrollWidth <= e.clientWidth + 1)'
    )  # nothing is cut off


def look(browser, address, name):
    "Brightness of the ink, 0 to 255, after the widgets were used at two widths; nothing was loaded from elsewhere."
    page, outside = browser.new_page(), []
    page.on(
        "request",
        lambda r: r.url.startswith((address, address.replace("http", "ws"), "data:", "blob:")) or outside.append(r.url),
    )
    try:
        run_cells(page, address)
        for width in (1400, 760):
            page.set_viewport_size({"width": width, "height": 1300})
            page.locator(".rim-left").scroll_into_view_if_needed()
            use_widgets(page)
            page.screenshot(path=f"{name}-{width}.png")
        assert not outside, outside
        return brightness(page, ".rim-right", "color")
    finally:
        page.screenshot(path=f"{name}-last.png")
        page.close()


def test_widgets_live_in_jupyterlab(lab, tmp_path):
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            ink = {theme: look(browser, address, tmp_path / theme.split()[1]) for theme, address in lab.items()}
        finally:
            browser.close()
    assert ink["JupyterLab Light"] < 90 and ink["JupyterLab Dark"] > 165, ink
