"""docs/operate.md, What is installed: each dependency has its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"starlette", "h11"}
"""Of fastapi and uvicorn: named to keep out versions with advisories."""


def test_each_dependency_is_told() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {need.name for need in map(Requirement, lines)} - {project["name"]}
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| [\d., a-z]+ \|$", (ROOT / "docs" / "operate.md").read_text(), re.MULTILINE
    )
    told = {name for row in rows for name in re.sub(r"\(.*?\)|, with .*", "", row).replace(",", " ").split()}
    assert names - told == PARTS
