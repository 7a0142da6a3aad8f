"""What has to hold before a tag is released: its name, pyproject.toml, CITATION.cff and the changelog say one version.

``python .ci/release.py v0.2.0`` prints the section of the changelog, a release's notes; exit code 1 says what differs.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReleasable(Exception):
    """What is said of the version differs from place to place."""


def version(root: Path = ROOT) -> str:
    """The one that counts: pyproject.toml's."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def notes(tag: str, root: Path = ROOT) -> str:
    """The changelog's section of a tag. Raises NotReleasable."""
    wanted = version(root)
    if tag != f"v{wanted}":
        raise NotReleasable(f"the tag is {tag}, and pyproject.toml says {wanted}: its tag is v{wanted}")
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    if cited is None or cited[1] != wanted:
        raise NotReleasable(f"CITATION.cff does not say {wanted}")
    section = re.search(rf"^## {re.escape(wanted)}\n(.*?)(?=^## |\Z)", _changelog(root), re.DOTALL | re.MULTILINE)
    if section is None or not section[1].strip():
        raise NotReleasable(f"the changelog has no section {wanted}, or an empty one")
    return section[1].strip() + "\n"


def _changelog(root: Path) -> str:
    return (root / "CHANGELOG.md").read_text()


def main() -> None:
    """Entry point."""
    try:
        print(notes(sys.argv[1]), end="")
    except NotReleasable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
