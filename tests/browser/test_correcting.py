"""Corrections in a real browser: the widget in JupyterLab, and the queue as a page with keys. Needs chromium on the
PATH and `pip install playwright`; without them it is skipped, and says so."""

import json
import numpy as np, pytest
from PIL import Image
from rim.apps.cli import main
from rim.apps.review import Review
from rim.base.images import read_labels
from rim.toybox.world import World
from test_lab import CHROMIUM, pytestmark, run_all, running_labs, start_lab, sync_playwright  # noqa: F401

NAMES = [n for n in World().names if n not in ("car", "star")]


@pytest.fixture
def results(tmp_path):
    "Three scenes, named with a list that lacks two of their things."
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(World().scene(2_001_000 + i).image).save(tmp_path / f"images/scene-{i}.png")
    asked = ["segment", str(tmp_path / "images"), "--classes", ", ".join(NAMES), "--unknown", "0.5", "--keep"]
    assert main([*asked, "--out", str(tmp_path / "results")]) == 0
    return tmp_path / "results"


@pytest.fixture
def browser():
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


CELLS = """from rim.apps.review import Review
from rim.apps.correct_widget import CorrectWidget
review = Review(FOLDER)
first = review.picture(review.queue()[0].image)
CorrectWidget(review.stored_result(first), review.corrector(first.file), review.queue()[0].at)"""


def test_a_click_and_a_name_in_jupyterlab_correct_a_folder(results, browser, tmp_path, root):
    cells = [CELLS.replace("FOLDER", repr(str(results)))]
    started = {"lab": start_lab(tmp_path / "lab", tmp_path / "home", root, "JupyterLab Light", cells)}
    before, page = Review(results), browser.new_page()
    doubt = before.queue()[0]
    kept = before.stored_result(before.picture(doubt.image))
    height, width = kept.labels.shape
    region = kept.regions[doubt.index].mask & (kept.region_map == doubt.index)
    y, x = np.argwhere(region)[len(np.argwhere(region)) // 2].tolist()
    with running_labs(started) as addresses:
        try:
            run_all(page, addresses["lab"])
            page.wait_for_selector(".rim-correct input", timeout=180_000)
            stage = page.locator(".rim-left .rim-stage")
            stage.scroll_into_view_if_needed()
            box = stage.bounding_box()
            page.mouse.click(box["x"] + box["width"] * (x + 0.5) / width, box["y"] + box["height"] * (y + 0.5) / height)
            page.wait_for_function(f"document.querySelector('.rim-right').textContent.includes('({x}, {y})')")
            offered = page.eval_on_selector_all(".rim-correct option", "all => all.map(o => o.value)")
            assert offered == ["background", *NAMES]
            drawn = page.inner_html(".rim-left .rim-stage")
            page.fill(".rim-correct input", "star <b>")
            page.screenshot(path=tmp_path / "before.png")
            page.keyboard.press("Enter")
            page.wait_for_function(
                "[...document.querySelectorAll('.rim-correct option')].some(o => o.value == 'star <b>')"
            )
            page.wait_for_function("document.querySelector('.rim-right').textContent.includes('star <b>')")
            assert page.inner_html(".rim-left .rim-stage") != drawn and page.input_value(".rim-correct input") == ""
            page.fill(".rim-correct input", "a\x07bell")
            page.click(".rim-correct button:enabled")
            page.wait_for_function("document.querySelector('.rim-right').textContent.includes('must be printable')")
            page.wait_for_selector(".rim-correct button:enabled")
        finally:
            page.screenshot(path=tmp_path / "after.png")
    after = Review(results)
    assert [(c.name, c.points, c.image) for c in after.corrections] == [("star <b>", ((x, y),), doubt.image)]
    labels = read_labels(results / after.picture(doubt.image).results[0])
    assert (labels[after.corrections[0].mask] == len(NAMES) + 1).all()


def test_the_queue_is_answered_with_keys_and_resumed(results, browser, tmp_path):
    review = Review(results)
    path, doubts = review.write_page(tmp_path / "queue.html"), review.queue()
    context = browser.new_context(accept_downloads=True)
    page, outside = context.new_page(), []
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or outside.append(r.url))
    page.goto(path.resolve().as_uri())
    said = lambda i: page.locator("article output").nth(i).inner_text()
    here = lambda: page.eval_on_selector_all("article", "all => all.findIndex(a => a.classList.contains('here'))")
    assert page.locator("article").count() == len(doubts) >= 5 and here() == 0
    page.keyboard.press("1")
    assert said(0) == f"→ {doubts[0].choices[0]}" and here() == 1
    page.keyboard.press("n")
    page.keyboard.type("my kx1j")  # letters of a name are no keys
    page.keyboard.press("Enter")
    assert said(1) == "→ my kx1j" and here() == 2
    for key in "jjk2":
        page.keyboard.press(key)
    assert said(3) == f"→ {doubts[3].choices[1]}" and here() == 4 and said(2) == ""
    page.keyboard.press("3")
    page.keyboard.press("k")
    page.keyboard.press("x")
    assert said(4) == "" and page.inner_text("#count") == f"3 of {len(doubts)} answered"
    page.screenshot(path=tmp_path / "queue.png")
    top = "e => { const b = e.getBoundingClientRect(), at = [b.left + b.width / 2, b.top + b.height / 2];"
    top += " return b.top >= 0 && e.contains(document.elementFromPoint(...at)); }"
    assert page.eval_on_selector("header", top)  # no row is drawn over the line that says what the keys do
    page.reload()
    assert said(0) and said(1) and said(3) and page.inner_text("#count") == f"3 of {len(doubts)} answered"
    with page.expect_download() as saved:
        page.click("#save")
    answers = json.loads(saved.value.path().read_text())
    chosen = [(0, doubts[0].choices[0]), (1, "my kx1j"), (3, doubts[3].choices[1])]
    assert answers == [{"image": doubts[i].image, "at": list(doubts[i].at), "name": name} for i, name in chosen]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    assert main(["correct", str(results), "--answers", str(tmp_path / "answers.json")]) == 0
    assert [c.name for c in Review(results).corrections] == [name for _, name in chosen] and not outside
