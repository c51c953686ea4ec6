"""What is installed: pinned, recent enough to be without the holes that are known, and the same at the lower end as in
the pins."""

import re, tomllib
import pytest

pytestmark = pytest.mark.promise(20)
MENDED = {"pillow": "12.2", "torch": "2.6"}  # the first versions without the holes that SECURITY.md lists


def number(text):
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def pins(root):
    return dict(line.split("==") for line in (root / "constraints.txt").read_text().split())


def wanted(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return project["dependencies"], [w for extra in project["optional-dependencies"].values() for w in extra]


@pytest.mark.parametrize("name", MENDED)
def test_known_holes_are_closed(root, name):
    floors = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(wanted(root)[0]), re.M))
    assert number(floors[name]) >= number(MENDED[name]) and number(pins(root)[name]) >= number(floors[name])


def test_everything_that_is_asked_for_is_pinned(root):
    asked = {re.match(r"[\w-]+", w)[0] for part in wanted(root) for w in part if "==" not in w} - {
        "rim"
    }  # what is pinned where it stands has an environment of its own
    assert asked <= set(pins(root)), asked - set(pins(root))
