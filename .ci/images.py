"""The images that ours are built from and stand beside: ``python .ci/images.py``. Asks their registry, through docker.

Exit status 1 for one that is not named by version and digest, for two digests of one version, and for a digest that
its registry does not have. Where a version leads to another digest now, its base was built anew: that is told, and is
no failure. Without docker, or a registry that answers, it says so, by name, and that is none either.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = "stmixer"
_NAMED = re.compile(r"^\s*(?:FROM|image:)\s+(\S+)(?:\s+AS\s+\S+)?\s*$", re.MULTILINE)
_PINNED = re.compile(r"([\w./-]+:[\w.-]+)@(sha256:[0-9a-f]{64})")
_ABSENT = re.compile(r": not found$|manifest unknown", re.MULTILINE)
ANSWER_S = 60

Ask = Callable[[str], str | None]
"""The digest that a reference leads to; None where its registry has no such. Raises OSError where nobody answers."""


@dataclass(frozen=True)
class Image:
    """``version``: name and tag; ``digest``: None where it is not pinned."""

    version: str
    digest: str | None


def images(root: Path = ROOT) -> Iterator[Image]:
    """All that Dockerfiles and docker-compose.yml name, but our own; each once, in order."""
    files = (*sorted((root / "docker").glob("*.Dockerfile")), root / "docker-compose.yml")
    texts = [path.read_text() for path in files]
    for named in dict.fromkeys(found for text in texts for found in _NAMED.findall(text)):
        if named.partition(":")[0] != OURS:
            pinned = _PINNED.fullmatch(named)
            yield Image(pinned[1], pinned[2]) if pinned else Image(named, None)


def ask_docker(reference: str) -> str | None:
    """See ``Ask``."""
    command = ["docker", "buildx", "imagetools", "inspect", reference, "--format", "{{.Manifest.Digest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise OSError("no answer") from None
    if done.returncode == 0:
        return done.stdout.strip()
    if _ABSENT.search(done.stderr):
        return None
    raise OSError(done.stderr.strip()[:200])


def report(of: Sequence[Image], ask: Ask = ask_docker) -> tuple[int, list[str]]:
    """The exit status and the lines to print."""
    wrong = [f"{image.version}: not pinned by a digest" for image in of if image.digest is None]
    versions = [image.version for image in of]
    wrong += [f"{version}: pinned by two digests" for version in sorted({v for v in versions if versions.count(v) > 1})]
    told = []
    try:
        for image in of:
            if image.digest is None:
                continue
            if ask(f"{image.version}@{image.digest}") is None:
                wrong.append(f"{image.version}: its registry has no {image.digest}")
            elif (now := ask(image.version)) != image.digest:
                told.append(f"{image.version}: leads to {now or 'nothing'} now; take it over, or a newer version")
    except OSError as error:
        told.append(f"images: not looked up, no registry answers ({error})")
    return int(bool(wrong)), [*wrong, *told, f"images: {len(of)}"]


if __name__ == "__main__":
    exit_status, said = report(list(images()))
    print("\n".join(said))
    sys.exit(exit_status)
