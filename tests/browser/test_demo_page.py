"""The demo's page in a real browser. Needs chromium on the PATH, `pip install playwright` and the extra `demo`; without
them it is skipped, and says so."""

import importlib.util, os, re, shutil, subprocess, sys, urllib.error, urllib.request
import numpy as np, pytest
from PIL import Image
from conftest import ROOT

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
LACKING = [
    name
    for name, there in [("chromium", CHROMIUM), *((n, importlib.util.find_spec(n)) for n in ("playwright", "gradio"))]
    if not there
]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"NOT TESTED IN A BROWSER: {', '.join(LACKING)} missing")

SERVER = """
import sys
import numpy as np
from rim.apps.demo import serve
from rim.method.segmentation import Region, Segmentation
class Evidence:
    def __init__(self, names): self.names = names
    def explain(self, i):
        scores, picture = dict(zip(self.names, (0.75, 0.5))), np.full((64, 128, 3), 200, np.uint8)
        return dict(
            text=f"{self.names[0]}, before {self.names[1]}.",
            runner_up=self.names[1],
            scores=scores,
            cosines=scores,
            agents=self.names,
            rankings=np.array([[0, 1], [1, 0]]),
            distributions=np.array([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]]),
            pictures=dict.fromkeys(self.names, picture),
        )
class Left:
    "Finds the first class in the left half."
    def segment(self, image, vocabulary):
        labels = np.zeros(image.shape[:2], int)
        labels[:, :image.shape[1] // 2] = 1
        name, box = vocabulary.names[0], (0, 0, image.shape[1] // 2, image.shape[0])
        region = Region(labels == 1, box, 1, name, 0.75, vocabulary.names[:2], {name: 0.75})
        return Segmentation(image, labels, vocabulary, (region,), evidence=Evidence(vocabulary.names))
serve(Left(), "boat, <img src=x onerror=alert(1)>", sys.argv[1], 0, say=lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "Of a page that is being served."
    home = tmp_path_factory.mktemp("home")
    Image.fromarray(np.tile(np.arange(0, 240, 3, dtype=np.uint8)[:, None, None], (1, 120, 3))).resize((320, 240)).save(
        home / "photo.png"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, home / "photo.png"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home)},
    )
    try:
        yield re.match(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
    finally:
        server.terminate()
        server.wait(20)


def test_other_names_are_refused_and_the_browser_is_told_to_stay(address):
    answer = urllib.request.urlopen(address + "/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address + "/", headers={"Host": "evil.example"}))
    for path in ("/docs", "/gradio_api/file=/etc/passwd", f"/gradio_api/file={__file__}"):
        with pytest.raises(urllib.error.HTTPError, match="403|404"):
            urllib.request.urlopen(address + path)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ask_and_click(address, tmp_path, width, theme):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme=theme)
        asked, broken, dialogs = [], [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
        page.on("console", lambda m: broken.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: broken.append(str(e)))
        page.goto(address)
        page.click("#ask")
        result = page.wait_for_selector("#result img", timeout=60_000)
        page.locator("#legend", has_text="boat").wait_for()
        box = result.bounding_box()
        result.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.5})
        page.locator("#why", has_text="before").wait_for()
        bars, picture = page.locator("#why svg rect").all(), page.locator("#why td img").first
        assert (
            len(bars) == 6
            and all(bar.bounding_box()["height"] > 10 for bar in bars)
            and picture.bounding_box()["width"] == 2 * picture.bounding_box()["height"]
        )
        assert "boat" in page.inner_text("#why") and "onerror=alert(1)" in page.inner_text("#why")
        if os.environ.get("RIM_SCREENSHOTS"):
            page.screenshot(path=f"{os.environ['RIM_SCREENSHOTS']}/demo-{theme}-{width}.png", full_page=True)
        result.click(position={"x": box["width"] * 0.75, "y": box["height"] * 0.5})
        page.locator("#why", has_text="No region").wait_for()
        page.fill("#words textarea, #words input", ", ".join(f"thing {i}" for i in range(25)))
        page.click("#ask")
        page.wait_for_selector("text=at most 24 names")
        wide = page.evaluate("document.documentElement.scrollWidth")
        colour = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
        )
        browser.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not outside and not dialogs and not broken, (outside, dialogs, broken)
    assert wide <= width and (colour > 128) == (theme == "light")
