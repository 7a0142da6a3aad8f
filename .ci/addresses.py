"""Where the repository is, written into what a release is built of: ``python .ci/addresses.py URL TAG``.

A checkout does not know its own address; the forge that builds a tag does. pyproject.toml gets links, which stand on a
package's page, and CITATION.cff its ``repository-code``. Exit code 1 says what is no address.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
URLS = "[project.urls]\n"


def write(url: str, tag: str, root: Path = ROOT) -> None:
    """Raises ValueError for what is no address of a repository, or where it is written already."""
    if not re.fullmatch(r"https://[\w.-]+(?::\d+)?(?:/[\w.-]+)+", url):
        raise ValueError(f"{url} is no https address of a repository")
    project, cited = root / "pyproject.toml", root / "CITATION.cff"
    links = {"Source": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/{tag}/CHANGELOG.md"}
    lines = "".join(f'{name} = "{link}"\n' for name, link in links.items())
    for path, place, then in (
        (project, URLS, URLS + lines),
        (cited, "type: software\n", f'type: software\nrepository-code: "{url}"\n'),
    ):
        text = path.read_text()
        if text.count(place) != 1 or url in text:
            raise ValueError(f"{path.name} has no place for addresses, or has them")
        path.write_text(text.replace(place, then))


def main() -> None:
    """Entry point."""
    try:
        write(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
