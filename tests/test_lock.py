"""What we stand on: a lock that pins everything by hashes, images by digests, what is known against them, and a
release's list of all that."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / ".ci"))

import images as container_images  # noqa: E402
from advisories import report  # noqa: E402
from images import Image  # noqa: E402
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


UV = Path(sys.executable).parent / "uv"


def wheel(folder: Path, name: str, *needs: str) -> str:
    """A package with nothing in it, and the hash of its file."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path, record = folder / f"{name}-1.0-py3-none-any.whl", ""
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            value = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={value},{len(text)}\n"
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("wrong", ["", "asked-for", "comes-along"])
def test_another_file_of_the_same_version_is_not_installed(wrong: str, tmp_path: Path) -> None:
    """As images and CI install: by a lock that is given as constraints, also what nobody asked for by name."""
    if not UV.is_file():
        pytest.skip("uv is not installed: make test installs it")
    hashes = {name: wheel(tmp_path, name.replace("-", "_"), *needs) for name, needs in
              (("comes-along", ()), ("asked-for", ("comes-along",)))}  # fmt: skip
    if wrong:
        hashes[wrong] = "0" * 64
    lock = tmp_path / "lock.txt"
    lock.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:{value}\n" for name, value in hashes.items()))
    command = [UV, "pip", "install", "--offline", "--no-index", "--no-cache", "--find-links", tmp_path, "--constraint",
               lock, "--target", tmp_path / "there", "asked-for"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "UV_NO_CONFIG": "1"})
    assert (done.returncode == 0) == (wrong == ""), done.stderr
    assert not wrong or "ash mismatch" in done.stderr


def test_what_installs_is_locked_too() -> None:
    """uv itself, by the hash of its file, wherever a package is installed for CI, an image or a release."""
    (uv,) = packages(ROOT / ".ci" / "uv.txt")
    assert uv.name == "uv"
    for place in ("Makefile", "docker/cpu.Dockerfile", "docker/cuda.Dockerfile", ".github/workflows/release.yml"):
        installs = re.findall(r"(?<!uv )pip install (.*)", (ROOT / place).read_text())
        assert installs, place
        assert all("--require-hashes --requirement .ci/uv.txt" in each for each in installs), place


def test_actions_are_pinned_by_their_commits() -> None:
    """A tag can be moved."""
    used = [
        each
        for file in (ROOT / ".github/workflows").glob("*.yml")
        for each in re.findall(r"uses: (.*)", file.read_text())
    ]
    assert len(used) > 5
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


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
    document, locked, named = sbom(), list(packages()), list(container_images.images())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    parts = {kind: [c for c in document["components"] if c["type"] == kind] for kind in ("library", "container")}
    assert len(document["components"]) == sum(map(len, parts.values()))
    assert [(c["name"], c["version"]) for c in parts["library"]] == [(p.name, p.version) for p in locked]
    for component, package in zip(parts["library"], locked, strict=True):
        hashes = component["externalReferences"][0]["hashes"]
        assert hashes == [{"alg": "SHA-256", "content": value} for value in package.sha256]
    assert [(f"{c['name']}:{c['version']}", f"sha256:{c['hashes'][0]['content']}") for c in parts["container"]] == [
        (image.version, image.digest) for image in named
    ]
    references = [component["bom-ref"] for component in document["components"]]
    assert len(set(references)) == len(references)
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


# -- images

PINNED = Image("base:1", "sha256:" + "1" * 64)


def test_every_image_is_pinned_by_one_digest() -> None:
    named = list(container_images.images())
    assert {image.version.partition(":")[0] for image in named} == {"python", "prom/prometheus", "grafana/grafana"}
    leads_to = {i.version: i.digest for i in named} | {f"{i.version}@{i.digest}": i.digest for i in named}
    assert container_images.report(named, leads_to.get) == (0, ["images: 3"])


@pytest.mark.parametrize(
    ("of", "leads_to", "status", "says"),
    [
        ([Image("base:1", None)], {}, 1, "base:1: not pinned by a digest"),
        ([PINNED, Image("base:1", "sha256:" + "2" * 64)], {}, 1, "base:1: pinned by two digests"),
        ([PINNED], {"base:1": PINNED.digest}, 1, f"base:1: its registry has no {PINNED.digest}"),
        ([PINNED], {f"base:1@{PINNED.digest}": PINNED.digest, "base:1": "sha256:new"}, 0,
         "base:1: leads to sha256:new now; take it over, or a newer version"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_image_is_said(of: list[Image], leads_to: dict[str, str], status: int, says: str) -> None:
    ended, lines = container_images.report(of, leads_to.get)
    assert ended == status
    assert says in lines


def test_no_registry_is_said_and_no_failure() -> None:
    def silent(reference: str) -> str | None:
        raise OSError("no docker here")

    assert container_images.report([PINNED], silent) == (
        0, ["images: not looked up, no registry answers (no docker here)", "images: 1"],
    )  # fmt: skip


def test_images_that_are_named_are_found(tmp_path: Path) -> None:
    """Ours are built, and have no digest."""
    (tmp_path / "docker").mkdir()
    file, compose = tmp_path / "docker" / "x.Dockerfile", tmp_path / "docker-compose.yml"
    file.write_text(f"FROM base:1@{PINNED.digest} AS build\nFROM other:2\nRUN FROM x\n")
    compose.write_text("services:\n  a:\n    image: stmixer:cpu\n  b:\n    image: team/x:3\n")
    found = list(container_images.images(tmp_path))
    assert found == [PINNED, Image("other:2", None), Image("team/x:3", None)]
