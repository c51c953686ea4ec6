"""`make release`: sdist, wheel, site and results into dist/, with a file of digests and the release notes.

The archives of site and results are the same bytes whenever their files are: sorted, without owners, dated by the
commit."""

import gzip, hashlib, io, re, subprocess, sys, tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = (
    "figures",
    "bench/results",
    "claims.toml",
    "settings.ini",
    "constraints.txt",
    "docs/claims.md",
    "docs/report.md",
)


def tracked(*paths, root=ROOT):
    "Files of the repository below these paths, sorted."
    shown = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--", *paths], capture_output=True, text=True)
    return [root / name for name in sorted(shown.stdout.split("\0")) if name]


def committed_at(root=ROOT):
    "Seconds of the last commit."
    shown = subprocess.run(["git", "-C", str(root), "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return int(shown.stdout or 0)


def archive(files, path, base, time):
    "A tar.gz of files, named from `base`, that depends on nothing but their bytes, names and `time`."
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            entry, data = tarfile.TarInfo(file.relative_to(base).as_posix()), file.read_bytes()
            entry.size, entry.mtime, entry.mode = len(data), time, 0o644
            tar.addfile(entry, io.BytesIO(data))
    with path.open("wb") as out, gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=time) as zipped:
        zipped.write(packed.getvalue())
    return path


def digests(paths):
    "Lines as sha256sum writes them."
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def notes(version, sums, root=ROOT):
    "Release notes: the changes, the counts of claims, the digests."
    changes = re.search(
        rf"^## {re.escape(version)}[^\n]*\n(.*?)(?=^## |\Z)",
        (root / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )
    if not changes:
        raise ValueError(f"a release needs a section of CHANGELOG.md: there is none for {version}")
    counts = (root / "figures/claims.md").read_text(encoding="utf-8").strip()
    return f"# rim {version}\n\n{counts}\n\n{changes[1].strip()}\n\n## Digests\n\n```\n{sums}```\n"


def main():
    import rim

    dist, time = ROOT / "dist", committed_at()
    if subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True).stdout.strip():
        print("A release is made of a commit: there are changes that are not committed.", file=sys.stderr)
        return 1
    dist.mkdir(exist_ok=True)
    for old in dist.iterdir():
        old.unlink()
    subprocess.run([sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(dist), str(ROOT)], check=True)
    subprocess.run([sys.executable, str(ROOT / "docs/build.py")], check=True)
    site = sorted(p for p in (ROOT / "_docs").rglob("*") if p.is_file() and ".doctrees" not in p.parts)
    archive(site, dist / f"rim-{rim.__version__}-site.tar.gz", ROOT / "_docs", time)
    archive(tracked(*RESULTS), dist / f"rim-{rim.__version__}-results.tar.gz", ROOT, time)
    sums = digests(sorted(dist.glob("rim-*")))
    (dist / "SHA256SUMS").write_text(sums, encoding="utf-8")
    (dist / "NOTES.md").write_text(notes(rim.__version__, sums), encoding="utf-8")
    print(sums, end="")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
