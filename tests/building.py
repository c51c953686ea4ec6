"""The built site, for the tests that read it: built once, again when something that it is made from is newer."""

import functools, hashlib, subprocess, sys, tempfile
from pathlib import Path
from filelock import FileLock
from conftest import ROOT

SITE = ROOT / "_docs"


def changed():
    "When the newest file that the site is made from was changed."
    folders = [
        p
        for name in ("nbs", "rim", "docs", "figures")
        for p in (ROOT / name).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    return max(p.stat().st_mtime for p in [*folders, *ROOT.glob("*.md"), ROOT / "settings.ini"])


@functools.cache
def site():
    "The folder of the site; tests in other processes wait while it is built."
    with FileLock(Path(tempfile.gettempdir()) / f"rim-site-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}.lock"):
        front = SITE / "index.html"
        if not front.exists() or front.stat().st_mtime < changed():
            done = subprocess.run([sys.executable, "docs/build.py"], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return SITE
