"""Render what is made from the results: claims, report, index, README, benchmarks: `python docs/claims.py`.

Ends with 1 where a claim needs another look: a row that a result no longer has, or a verdict that it contradicts."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
import benchmarks, calibration, readme


def main(root=ROOT):
    from rim.reproduce.claims import Claims, sentence, write_pages
    from rim.reproduce.index import write_index

    claims = Claims(root)
    changed = write_pages(claims) + calibration.write(root)
    for profile in ("toybox", "photo"):
        write_index(root, profile)
    benchmarks.write(root)
    (root / "README.md").write_text(readme.render(root), encoding="utf-8")
    print(sentence(claims))
    print("Changed:", ", ".join(p.relative_to(root).as_posix() for p in changed) or "nothing")
    problems = claims.problems()
    for problem in problems:
        print("A claim needs another look:", problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
