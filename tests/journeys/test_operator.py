"""An operator, by docs/operate.md: keys, the service behind nginx, an alert that comes and goes, the unit checked."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from packaged import ROOT
from posting import eventually
from proxied import SITE, nginx
from serving import Server, running_server
from watching import Prometheus, need, running_prometheus

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "docker" / "deploy"


def new_key(keys: Path, *arguments: str) -> str:
    """As the page has it: shown once."""
    command = [sys.executable, "-m", "stmixer.service.cli", "keys", "add", *arguments, "--keys", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (key,) = re.findall(r"stm_\S+", done.stdout)
    return key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The key file, a camera's key, and Prometheus' own."""
    file = tmp_path_factory.mktemp("etc") / "keys.json"
    return file, new_key(file, "door"), new_key(file, "prometheus", "--scope", "admin")


@pytest.fixture(scope="module")
def service(tiny_weights: Path, keys: tuple[Path, str, str]) -> Iterator[Server]:
    with running_server(weights=tiny_weights, keys=keys[0], allowed_hosts="cam.example", root_path="/cam") as server:
        server.admin_key = keys[2]
        yield server


def test_the_key_opens_it_behind_nginx(service: Server, keys: tuple[Path, str, str], tmp_path: Path) -> None:
    site = (DEPLOY / "nginx.conf").read_text()
    with nginx(site, service, tmp_path) as proxied, httpx.Client(base_url=proxied.url, headers=SITE) as browser:
        assert browser.get("/readyz").status_code == 200
        clip = (OWN_CLIPS / "walk.mp4").read_bytes()
        refused = browser.post("/v1/detect", content=clip)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        answer = browser.post("/v1/detect", content=clip, headers={"Authorization": f"Bearer {keys[1]}"}, timeout=300)
        assert answer.json()["summary"]["ok"] == len(answer.json()["keyframes"]) > 0
        assert browser.get("/metrics", headers={"Authorization": f"Bearer {keys[1]}"}).status_code == 403
    text = keys[0].read_text()
    assert not any(key in text for key in keys[1:]), "the file holds hashes"
    assert [key["name"] for key in json.loads(text)["keys"]] == ["door", "prometheus"]


def states(prometheus: Prometheus, alert: str) -> set[str]:
    """Of an alert now: none, pending, firing."""
    return {series["metric"]["alertstate"] for series in prometheus.query(f'ALERTS{{alertname="{alert}"}}')}


def test_an_alert_comes_and_goes(service: Server, tmp_path: Path) -> None:
    """A service that stands still, for longer than the alert's minute; its runbook entry is there."""
    with running_prometheus(service, tmp_path) as prometheus:
        eventually(lambda: states(prometheus, "StmixerDown"), lambda now: now == set(), 60)
        service.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: states(prometheus, "StmixerDown"), lambda now: now == {"firing"}, 180)
        finally:
            service.process.send_signal(signal.SIGCONT)
        eventually(lambda: states(prometheus, "StmixerDown"), lambda now: "firing" not in now, 60)
    assert "### StmixerDown" in (ROOT / "docs" / "operate.md").read_text()


def test_the_unit_starts_what_was_installed(tmp_path: Path) -> None:
    """The page's commands, in a folder that stands for the machine's root."""
    analyze = need("systemd-analyze", "systemd")
    program = tmp_path / "opt" / "stmixer" / ".venv" / "bin" / "stmixer"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    unit = tmp_path / "etc" / "systemd" / "system" / "stmixer.service"
    unit.parent.mkdir(parents=True)
    unit.write_text((DEPLOY / "stmixer.service").read_text().replace("/opt/stmixer", f"{tmp_path}/opt/stmixer"))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "stmixer" in line] == []
    assert done.returncode == 0, done.stderr
