"""What a release consists of: one version everywhere, archives that are the same bytes twice, notes with their
digests."""

import json, os, re, sys, tarfile, tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import rim

sys.path.insert(0, str(ROOT / "docs"))
import release


def test_one_version_and_licence_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    codemeta, zenodo = (
        json.loads((ROOT / name).read_text(encoding="utf-8")) for name in ("codemeta.json", ".zenodo.json")
    )
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert (
        re.search(r"^version: (.+)$", citation, re.M)[1] == codemeta["version"] == zenodo["version"] == rim.__version__
    )
    assert project["license"] == zenodo["license"] == codemeta["license"].rpartition("/")[2]
    assert codemeta["description"] == project["description"]
    assert codemeta["runtimePlatform"].removeprefix("Python ") == project["requires-python"]
    assert f'title: "{zenodo["title"]}"' in citation
    assert all(f'title: "{paper["name"]}"' in citation for paper in codemeta["referencePublication"])
    assert codemeta["softwareRequirements"] == project["dependencies"]


def test_both_papers_are_named_everywhere():
    codemeta, zenodo = (
        json.loads((ROOT / name).read_text(encoding="utf-8")) for name in ("codemeta.json", ".zenodo.json")
    )
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    papers = [paper["url"].rpartition("/")[2] for paper in codemeta["referencePublication"]]
    named = [related["identifier"] for related in zenodo["related_identifiers"]]
    assert len(papers) == 2 and named == [f"arXiv:{p}" for p in papers]
    assert all(f'value: "arXiv:{p}"' in citation and f'url: "https://arxiv.org/abs/{p}"' in citation for p in papers)
    for paper, reference in zip(codemeta["referencePublication"], zenodo["references"]):
        names = [f"{{given-names: {a['givenName']}, family-names: {a['familyName']}}}" for a in paper["author"]]
        assert all(name in citation for name in names) and paper["name"] in reference


def test_files_that_codemeta_names_are_there():
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    named = "readme", "softwareHelp", "buildInstructions", "releaseNotes"
    assert all((ROOT / codemeta[key]).is_file() for key in named)


def test_an_archive_is_the_same_bytes_twice(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("b.csv", "a.csv"):
        (folder / name).write_text(name)
    files = sorted(folder.iterdir())
    first = release.archive(files, tmp_path / "1.tar.gz", tmp_path, 1_700_000_000).read_bytes()
    os.utime(folder / "a.csv", (0, 0))
    (folder / "b.csv").chmod(0o600)
    assert release.archive(files, tmp_path / "2.tar.gz", tmp_path, 1_700_000_000).read_bytes() == first
    with tarfile.open(tmp_path / "1.tar.gz") as tar:
        assert tar.getnames() == ["figures/a.csv", "figures/b.csv"]
    (folder / "b.csv").write_text("c.csv")
    assert release.archive(files, tmp_path / "3.tar.gz", tmp_path, 1_700_000_000).read_bytes() != first


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_the_archive_of_results_has_every_table():
    names = {path.relative_to(ROOT).as_posix() for path in release.tracked(*release.RESULTS)}
    tables = {path.relative_to(ROOT).as_posix() for path in (ROOT / "figures/toybox").glob("*/*.csv")}
    assert tables and tables <= names and "settings.ini" in names


def test_notes_have_changes_counts_and_digests(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/claims.md").write_text("Seven claims.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0\n\n- New.\n\n## 0.1.0\n\n- Old.\n")
    text = release.notes("0.2.0", "00  rim.whl\n", tmp_path)
    assert "- New." in text and "- Old." not in text and "Seven claims." in text and "00  rim.whl" in text
    with pytest.raises(ValueError, match="none for 0.3.0"):
        release.notes("0.3.0", "", tmp_path)
