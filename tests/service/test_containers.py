"""The container files, as far as they can be checked where no container engine runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from stmixer.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SETTINGS = {f"STMIXER_{name.upper()}" for name in Settings.model_fields}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_compose_file_keeps_to_its_schema() -> None:
    check = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_profile_brings_one_service_with_its_watchers() -> None:
    services = compose()["services"]
    for profile, own in (("cpu", "stmixer-cpu"), ("gpu", "stmixer-gpu")):
        assert {name for name, s in services.items() if profile in s["profiles"]} == {own, "prometheus", "grafana"}
        assert services[own]["networks"]["default"]["aliases"] == ["stmixer"]
        assert services[own]["read_only"] is True
        assert (ROOT / services[own]["build"]["dockerfile"]).is_file()
    assert "devices" in services["stmixer-gpu"]["deploy"]["resources"]["reservations"]


def test_what_compose_names_is_there_and_published_to_this_machine_alone() -> None:
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "mem_limit" in service
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
        assert {name for name in service.get("environment", {}) if name.startswith("STMIXER_")} <= SETTINGS


def test_compose_says_that_it_is_open_and_shuts_all_of_it_in() -> None:
    whole = compose()
    assert whole["networks"]["inside"] == {"internal": True}
    for name, service in whole["services"].items():
        is_ours = name.startswith("stmixer")
        assert (service.get("environment", {}).get("STMIXER_ALLOW_ANONYMOUS") == "true") is is_ours, name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] > 0
        assert "inside" in service["networks"]
        assert is_ours or "@sha256:" in service["image"]
        assert ("default" in service["networks"]) is is_ours


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_keeps_what_it_promises(path: Path) -> None:
    steps = instructions(path)
    stages = [rest for word, rest in steps if word == "FROM"]
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm@\S+( AS build)?", stage) for stage in stages)
    last = dict(steps)  # of each instruction the last one
    assert last["USER"] == "10001"
    assert "/readyz" in last["HEALTHCHECK"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entry = json.loads(last["ENTRYPOINT"])  # the exec form
    assert entry[0] in scripts
    assert set(re.findall(r"STMIXER_\w+", last["ENV"])) <= SETTINGS
    assert "STMIXER_ALLOW_ANONYMOUS" not in last["ENV"], "whoever runs it says so, or names a key file"
    installs = [rest for word, rest in steps if word == "RUN" and " install " in rest]
    assert ["--require-hashes" in rest or "--constraint lock.txt --build-constraints lock.txt" in rest
            for rest in installs] == [True, True]  # fmt: skip
    assert last["WORKDIR"] == "/", "where nobody else can put a file"
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest


def test_the_health_check_is_a_program_that_runs_and_fails_where_nothing_answers() -> None:
    for path in DOCKERFILES:
        command = json.loads(re.search(r"CMD (\[.*\])", dict(instructions(path))["HEALTHCHECK"]).group(1))  # type: ignore[union-attr]
        command[0], command[2] = sys.executable, command[2].replace(":8000", ":9")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "URLError" in done.stderr
