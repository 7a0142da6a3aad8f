"""docker-compose.yml as Docker's own compose reads it, where there is one: what each profile starts.

CI has none (Debian bookworm's docker.io brings none), so these are skipped there by name; test_containers.py and
test_deploy.py hold the file to its schema.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCHERS = {"prometheus", "grafana"}

Resolved = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """How it is started here: docker's plugin, or a program of its own; version 1, which writes no JSON, is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        told = subprocess.run([*command, "config", "--help"], capture_output=True, text=True, check=False)
        if told.returncode == 0 and "--format" in told.stdout:
            return command
    pytest.skip("docker compose is missing")


@pytest.fixture
def resolved(compose: list[str]) -> Resolved:
    """The configuration as it says it, with no word of warning."""

    def ask(*arguments: str, root: Path = ROOT, **variables: str) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
        done = subprocess.run(
            [*compose, *arguments, "config", "--format", "json"], cwd=root, capture_output=True, text=True, check=False,
            env=kept | variables,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return ask


@pytest.mark.parametrize(
    ("arguments", "variables", "ours"),
    [
        ((), {}, {"stmixer-cpu"}),
        ((), {"COMPOSE_PROFILES": "gpu"}, {"stmixer-gpu"}),
        (("--profile", "cpu"), {}, {"stmixer-cpu"}),
        (("--profile", "gpu"), {}, {"stmixer-gpu"}),
    ],
    ids=["nothing said", "COMPOSE_PROFILES=gpu", "--profile cpu", "--profile gpu"],
)
def test_one_service_of_ours_starts_with_its_watchers(
    resolved: Resolved, arguments: tuple[str, ...], variables: dict[str, str], ours: set[str]
) -> None:
    """As README and docs/operate.md have it, and by hand."""
    whole = resolved(*arguments, **variables)
    assert set(whole["services"]) == ours | WATCHERS
    (name,) = ours
    service = whole["services"][name]
    assert service["build"] == {
        "context": str(ROOT),
        "dockerfile": f"docker/{service['image'].split(':')[1]}.Dockerfile",
    }
    assert service["environment"]["STMIXER_ALLOW_ANONYMOUS"] == "true"
    assert {net: on["aliases"] for net, on in service["networks"].items()} == {
        "default": ["stmixer"], "inside": ["stmixer"],
    }  # fmt: skip
    for each in whole["services"].values():
        assert each["read_only"] is True
        assert [port["host_ip"] for port in each["ports"]] == ["127.0.0.1"]
        bound = [volume for volume in each["volumes"] if volume["type"] == "bind"]
        assert all(Path(volume["source"]).exists() and volume["read_only"] for volume in bound)
    assert whole["networks"]["inside"]["internal"] is True
    published = [port["published"] for each in whole["services"].values() for port in each["ports"]]
    assert sorted(published) == ["3000", "8000", "9090"]


def test_a_gpu_is_reserved_where_it_is_asked_for(resolved: Resolved) -> None:
    (device,) = resolved("--profile", "gpu")["services"]["stmixer-gpu"]["deploy"]["resources"]["reservations"][
        "devices"
    ]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "deploy" not in resolved("--profile", "cpu")["services"]["stmixer-cpu"]
