"""`python .github/check_release.py v0.2.0`: prints what the changelog says of that version, if it may be published.

Only the standard library.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, project: str, changelog: str) -> list[str]:
    """What does not agree: the tag, pyproject.toml's version and CHANGELOG.md's newest dated entry."""
    version = re.search(r'^version = "(.+)"$', project, re.M)[1]
    entry = newest(changelog)
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"pyproject.toml's version is {version}; the registry takes X.Y.Z")
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, but pyproject.toml's version is {version}: the tag must be v{version}")
    if not entry or entry[1] != version:
        found.append(f"CHANGELOG.md's newest version is {entry and entry[1]}: rename [Unreleased] to [{version}]")
    elif not re.search(r"\d{4}-\d\d-\d\d", entry[2]) or "\n- " not in entry[3]:
        found.append(f"CHANGELOG.md's entry for {version} needs a date (YYYY-MM-DD) and at least one line")
    return found


def newest(changelog: str) -> re.Match | None:
    """The newest version that has a number: its number, the rest of its heading, its lines."""
    return re.search(r"^## \[(\d.*?)\](.*)$((?:(?!^## ).*\n?)*)", changelog, re.M)


if __name__ == "__main__":
    project, changelog = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md"))
    if found := problems(sys.argv[1], project, changelog):
        sys.exit("\n".join(found))
    print(newest(changelog)[3].strip())
