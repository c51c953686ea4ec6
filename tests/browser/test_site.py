"""The site in a real browser: `pip install playwright`, a Chromium of the system, and `pytest --slow tests/browser`."""

import functools, http.server, shutil, threading
from pathlib import Path
from urllib.parse import unquote, urlsplit
import pytest
from building import site

playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="the site's browser tests need playwright: pip install -c constraints.txt -e '.[browser]'",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the site's browser tests need Chromium: apt-get install chromium"),
]
WIDTHS, THEMES = (360, 768, 1600), ("light", "dark")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    "The site, served to this machine only."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site())))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def tab():
    "A tab of a headless browser."
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


LOOK = """() => ({
  links: [...document.querySelectorAll('a[href]')].map(a => a.href),
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  blind: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src),
  pictures: document.images.length,
  formulas: document.querySelectorAll('mjx-container').length,
  misprints: document.querySelectorAll('mjx-merror').length})"""


@pytest.fixture(scope="module")
def seen(tab, address):
    "What the browser saw on each page: page -> findings."
    found, troubles = {}, []
    tab.on("console", lambda m: m.type == "error" and troubles.append(m.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    tab.on("response", lambda answer: answer.status >= 400 and troubles.append(f"{answer.status}: {answer.url}"))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:")) or troubles.append(f"leaves the site: {request.url}")
        ),
    )
    for path in sorted(site().rglob("*.html")):
        page = path.relative_to(site()).as_posix()
        troubles.clear()
        tab.set_viewport_size(dict(width=WIDTHS[-1], height=900))
        tab.goto(address + page, wait_until="load")
        tab.evaluate("window.MathJax ? window.MathJax.startup.promise.then(() => 0) : 0")
        facts, wide, grounds = tab.evaluate(LOOK), [], {}
        for theme in THEMES:
            tab.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                tab.set_viewport_size(dict(width=width, height=900))
                if (needs := tab.evaluate("document.documentElement.scrollWidth")) > width:
                    wide.append(f"{theme}, {width}: {needs}")
            grounds[theme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        found[page] = facts | dict(wide=wide, grounds=grounds, troubles=list(troubles))
    return found


def those(seen, what):
    return {page: facts[what] for page, facts in seen.items() if facts[what]}


def test_pages_load_without_errors_and_without_leaving(seen):
    assert len(seen) > 50 and those(seen, "troubles") == {}


def test_pictures_show(seen):
    assert sum(facts["pictures"] for facts in seen.values()) > 100 and those(seen, "blind") == {}


def test_formulas_are_set(seen):
    assert seen["nbs/method/19_segmenter.html"]["formulas"] and those(seen, "misprints") == {}


def test_no_page_is_wider_than_its_window(seen):
    assert those(seen, "wide") == {}


def test_there_is_a_light_and_a_dark_theme(seen):
    assert all(facts["grounds"]["light"] != facts["grounds"]["dark"] for facts in seen.values())


def test_links_and_anchors_resolve(seen, address):
    broken = []
    for page, facts in seen.items():
        for link in set(facts["links"]):
            if not link.startswith(address):
                continue
            path, anchor = unquote(urlsplit(link).path).lstrip("/") or "index.html", unquote(urlsplit(link).fragment)
            if not (site() / path).is_file():
                broken.append(f"{page}: {path}")
            elif anchor and path in seen and anchor not in seen[path]["ids"]:
                broken.append(f"{page}: {path}#{anchor}")
    assert broken == []


def test_search_finds_a_function(tab, address):
    tab.goto(address + "search.html?q=ranking_similarity")
    tab.wait_for_selector("#search-results li a")
    assert "nbs/method/12_ranking.html" in tab.eval_on_selector("#search-results li a", "a => a.href")


def test_the_gallery_shows_every_committed_result(seen, address, root):
    made = [
        p.relative_to(root).parent / f"{p.parent.name}.html"
        for p in (root / "figures").glob("*/*/provenance.json")
        if p.parts[-3] in ("toybox", "paper")
    ]
    links = {urlsplit(link).path.lstrip("/") for link in seen["index.html"]["links"]}
    assert made and [str(p) for p in made if p.as_posix() not in links] == []
