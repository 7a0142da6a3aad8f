"""What is installed: a lock that pins everything by hashes, what is known against it, and a release's list of it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / ".ci"))

from advisories import report  # noqa: E402
from lock import Package, packages  # noqa: E402
from sbom import sbom  # noqa: E402

FLOORS = {"starlette": ("0.49.0", "0.49.1"), "h11": ("0.14.0", "0.16"), "pillow": ("11.2.1", "11.3")}
"""The last version that has advisories, and the first that has none."""


def pins(path: Path) -> set[tuple[str, str, str]]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    halves = [line.partition(";") for line in lines]
    return {(*pin.strip().split("=="), marker.strip()) for pin, _, marker in halves}  # type: ignore[misc]


def needed() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [need for need in map(Requirement, lines) if need.name != project["name"]]


def test_the_lock_has_everything_at_the_versions_of_the_constraints() -> None:
    locked = list(packages())
    assert {(p.name, p.version, p.marker) for p in locked} <= pins(ROOT / "constraints.txt")
    versions = {(p.name, p.version) for p in locked}
    for requirement in needed():
        name = canonicalize_name(requirement.name)
        found = [version for other, version in versions if other == name]
        assert found, f"{name} is not in the lock"
        assert all(requirement.specifier.contains(version) for version in found), requirement
    assert all(package.sha256 for package in locked)


def test_it_names_packages_and_hashes_and_nothing_else() -> None:
    """No place that they come from."""
    line = re.compile(r"[a-z0-9._-]+==[\w.+!]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|#.*")
    assert not [each for each in (ROOT / "lock.txt").read_text().splitlines() if not line.fullmatch(each)]


def test_what_had_advisories_has_a_floor() -> None:
    for name, (last, floor) in FLOORS.items():
        (requirement,) = [each for each in needed() if each.name == name]
        assert not requirement.specifier.contains(last), requirement
        assert requirement.specifier.contains(floor), requirement


@pytest.mark.parametrize(
    "line", ["numpy==2.0", "numpy>=2 --hash=sha256:" + "0" * 64, "numpy==2.0 --hash=sha256:short", "numpy"]
)
def test_a_line_that_pins_nothing_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"# a comment\n{line}\n")
    with pytest.raises(ValueError, match=r"pins no version by hashes"):
        list(packages(path))


def test_a_release_says_what_it_is_made_of() -> None:
    document, locked = sbom(), list(packages())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert [(c["name"], c["version"]) for c in document["components"]] == [(p.name, p.version) for p in locked]
    for component, package in zip(document["components"], locked, strict=True):
        hashes = component["externalReferences"][0]["hashes"]
        assert hashes == [{"alg": "SHA-256", "content": value} for value in package.sha256]
    assert document == sbom(), "the same lock gives the same document"


# -- advisories

SOME = [Package("good", "1.0", "", ("0" * 64,)), Package("bad", "2.0", "", ("0" * 64,))]


def told(question: dict[str, Any]) -> dict[str, Any]:
    """A database that knows something of one of them."""
    answers = {"good": {}, "bad": {"vulns": [{"id": "X-1"}]}}
    return {"results": [answers[query["package"]["name"]] for query in question["queries"]]}


def test_an_advisory_ends_the_build_unless_it_is_named() -> None:
    status, lines = report(SOME, told, {})
    assert (status, lines[0]) == (1, "X-1: bad==2.0: not allowed")
    status, lines = report(SOME, told, {"X-1": "we never call it"})
    assert (status, lines[0]) == (0, "X-1: bad==2.0: allowed, we never call it")


def test_one_that_is_allowed_for_nothing_has_to_go() -> None:
    status, lines = report(SOME, told, {"X-1": "we never call it", "X-2": "mended"})
    assert status == 1
    assert "X-2: allowed, and nothing has it any more; take it off the list" in lines


def test_no_database_is_said_and_no_failure() -> None:
    def silent(question: dict[str, Any]) -> dict[str, Any]:
        raise OSError("no route")

    status, lines = report(SOME, silent, {})
    assert status == 0
    assert lines == ["advisories: not looked up, https://api.osv.dev/v1/querybatch does not answer (no route)"]
