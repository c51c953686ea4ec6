"""README and site: rendered from the notebooks, and made so that they can be."""

import ast, importlib.util, json, sys
import pytest
from building import site


def load(root, name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", root / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def readme(root):
    return load(root, "readme")


@pytest.fixture
def build(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "docs"))
    yield load(root, "build")
    for name in ("gallery", "readme", "signatures", "calibration"):
        sys.modules.pop(name, None)


def test_readme_is_rendered_from_its_notebook(root, readme):
    assert readme.without_results((root / "README.md").read_text()) == readme.without_results(readme.render()), (
        "run python docs/readme.py"
    )


def test_included_results_are_those_of_the_folder(tmp_path, readme):
    (tmp_path / "nbs").mkdir()
    line = "<!-- include figures/t.md | *none yet* -->"
    (tmp_path / "nbs/index.ipynb").write_text(
        json.dumps(dict(cells=[dict(cell_type="markdown", source=["# t\n", line])]))
    )
    assert "*none yet*" in readme.render(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/t.md").write_text("| a |\n")
    shown = readme.render(tmp_path)
    assert "| a |" in shown and "none yet" not in shown and "| a |" not in readme.without_results(shown)


def test_the_page_of_both_worlds_is_current_and_has_their_tables(root):
    made, text = load(root, "calibration"), (root / "docs/calibration.md").read_text()
    assert text == made.render(), "run python docs/claims.py"
    for world in ("toybox", "photo"):
        folder = root / "figures" / world / "study_confidence"
        assert text.count(f"](../figures/{world}/study_confidence/reliability.png)") == 1
        for name in ("study_confidence.md", "missing.md", "unknown.md"):
            lines = [line for line in (folder / name).read_text().splitlines() if line.startswith("|")]
            assert len(lines) > 3 and "\n".join(lines) in text


def test_readme_names_nothing_that_is_not_there(root):
    import re

    links = re.findall(r"\]\(([^)#:]+)\)", (root / "README.md").read_text())
    missing = [link for link in links if not (root / link).exists() and not link.startswith("figures/")]
    assert links and not missing


def test_a_signature_is_the_same_in_every_build(build):
    shown = "---\n\n### f\n\n```python\ndef f(\n    read=<function _no_stdin at 0x7f104fe90fe0>,\n)\n```"
    cell = dict(source="show_doc(f)", outputs=[dict(data={"text/markdown": shown})])
    assert "    read=_no_stdin,\n" in build.signature(cell)


def test_only_definitions_are_run_for_the_pages(build):
    "nbdev runs every cell with an import; one that needs results which were never computed would fail."
    from types import SimpleNamespace

    def cell(source, **directives):
        return SimpleNamespace(source=source, directives_=directives, parsed_=lambda: ast.parse(source).body)

    keep = build.only_definitions(lambda cell: True)
    assert keep(cell("import math")) and keep(cell("x = 1", export="")) and keep(cell("#| echo: false\nshow_doc(f)"))
    assert not keep(cell("from math import pi\nresult * pi"))
    assert not build.only_definitions(lambda cell: None)(cell("import math"))


def test_headings_descend_one_level_at_a_time(build):
    cells = [
        dict(cell_type="markdown", source=s)
        for s in ("# A", "### B\n```\n# no heading\n```", "#### C", "## D", "#### E")
    ]
    assert [c["source"].split("\n")[0] for c in build.consecutive(cells)] == ["# A", "## B", "### C", "## D", "### E"]
    assert "# no heading" in cells[1]["source"]


def test_requests_to_other_hosts_are_found(tmp_path, build):
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="https://example.org">a link is no request</a><script src="_static/x.js"></script><link '
        'rel="stylesheet" href="_static/x.css"><img src="data:image/png;base64,AA">'
    )
    assert build.requests(tmp_path) == []
    for harm in (
        '<script async="async" src="https://example.org/x.js">',
        '<link rel="stylesheet" href="//example.org/x.css">',
        "<style>@import 'https://example.org/x.css';</style>",
        '<img alt="" src="http://example.org/x.png">',
    ):
        page.write_text(harm)
        assert len(build.requests(tmp_path)) == 1, harm


def test_links_lead_to_pages_or_files_or_nowhere(tmp_path, build):
    (tmp_path / "nbs/base").mkdir(parents=True)
    (tmp_path / "nbs/base/02_settings.ipynb").write_text("{}")
    settle = lambda text: build.settled(text, "nbs/tutorials", tmp_path)
    results = tmp_path / "figures/toybox/table2/table2.ipynb", tmp_path / "figures/photo/photo_table/photo_table.ipynb"
    for page in results:
        page.parent.mkdir(parents=True)
        page.touch()
    assert settle("[5](../../figures/README.md#table2)") == "[5](/figures/toybox/table2/table2.ipynb)"
    assert settle("[5](figures/photo/README.md#photo_table)") == "[5](/figures/photo/photo_table/photo_table.ipynb)"
    assert settle("[5](figures/README.md#none)") == "5"
    assert (
        settle("[a](../base/02_settings.ipynb)") == "[a](/nbs/base/02_settings.ipynb)"
        and settle("[b](../nothing.ipynb), ![c](none.png)") == "b, "
    )
    assert (
        settle("[s](../../settings.ini)") == "[s](/settings.ini)"
        and (tmp_path / "settings.ini").read_text() == (build.ROOT / "settings.ini").read_text()
    )
    assert (
        settle("[t](https://example.org), [u](#here)\n```\n[v](w.md)\n```")
        == "[t](https://example.org), [u](#here)\n```\n[v](w.md)\n```"
    )
    assert (
        build.unlinked("[`candidates`](/proposals.html#candidates) and [t](https://example.org)")
        == "`candidates` and [t](https://example.org)"
    )


def test_parameters_are_a_table_without_empty_columns(build):
    table = build.signatures.parameter_table(
        {
            "image": dict(docment="uint8 [H, W, 3]"),
            "k": dict(anno=int, default=5, docment="a|b"),
            "return": dict(docment="labels"),
        }
    )
    assert (
        table.split("\n")[0] == "| parameter | type | default |  |"
        and "| `image` |  |  | uint8 \\[H, W, 3\\] |" in table
        and "| `k` | `int` | `5` | a\\|b |" in table
        and "| **returns** |  |  | labels |" in table
    )
    assert "type" not in build.signatures.parameter_table({"x": dict(docment="y")})


@pytest.mark.slow
def test_the_site_builds_without_a_warning():
    assert (site() / "index.html").exists()


@pytest.mark.slow
def test_tables_that_notebooks_give_are_tables_on_the_page():
    assert (site() / "figures/toybox/trident_vs_rim/trident_vs_rim.html").read_text().count("<table") >= 2


def test_the_readme_has_at_most_900_words(root):
    words = [word for word in (root / "README.md").read_text(encoding="utf-8").split() if any(map(str.isalnum, word))]
    assert len(words) <= 900


def test_the_page_of_benchmarks_is_made_from_the_files_of_all_machines(root, tmp_path):
    pages = load(root, "benchmarks")
    assert (root / "docs/benchmarks.md").read_text(encoding="utf-8") == pages.render(root), "run docs/claims.py"
    folder = tmp_path / "bench/results"
    folder.mkdir(parents=True)
    ours = sorted((root / "bench/results").glob("*.json"))[0]
    folder.joinpath("a.json").write_text(ours.read_text())
    about = json.loads(ours.read_text())["machine"]
    row = dict(benchmark="stage 2", size="a|b", ours=50.0, other="stock", theirs=500.0, faster=10.0, floor=5.0)
    done = dict(step="tests", command=["python", "-m", "pytest"], code=0, seconds=61.2, summary="14 passed")
    for gpu, share in (("NVIDIA H200", True), ("NVIDIA H100 80GB HBM3", False)):
        content = dict(machine=about | dict(gpu=gpu), rows=[row], steps=[done, done | dict(code=2)])
        folder.joinpath("z.json").write_text(json.dumps(content))
        text = pages.render(tmp_path)
        assert text.index(f"## {gpu}") < text.index(f"## {about['processor']}") and "bench/results/z.json" in text
        assert "| stage 2 | a\\|b | 50 | stock | 500 | 10 |" in text and ("| 10% |" in text) == share
        assert "| tests | python -m pytest | done | 61 | 14 passed |" in text and "failed with 2" in text
