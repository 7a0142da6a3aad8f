"""An operator, by docs/operate.md: keys, the service behind nginx, an alert that comes and goes, the unit checked."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from blocks import blocks
from conftest import OWN_CLIPS
from packaged import ROOT
from posting import eventually
from proxied import SITE, nginx
from serving import Server, running_server
from watching import Prometheus, need, running_prometheus

from stmixer.service.key_file import read_keys

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


OF_THE_MACHINE = ("useradd", "python3 -m venv", "/opt/stmixer/.venv/bin/pip install .", "systemctl")
"""What the page's commands do to the machine itself, which no test does."""


def test_the_unit_starts_what_was_installed(tmp_path: Path) -> None:
    """The page's commands, in a folder that stands for the machine's root; who runs this stands for the unit's user."""
    (block,) = [text for kind, text in blocks("docs/operate.md") if text.startswith("useradd")]
    commands = [part.strip() for line in block.splitlines() for part in re.split(r"&&|#.*", line) if part.strip()]
    assert all(any(part.startswith(start) for part in commands) for start in OF_THE_MACHINE)
    program = tmp_path / "opt" / "stmixer" / ".venv" / "bin" / "stmixer"
    program.parent.mkdir(parents=True)
    program.symlink_to(Path(sys.executable).with_name("stmixer"))
    (tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    group = grp.getgrgid(os.getegid()).gr_name
    for part in [part for part in commands if not part.startswith(OF_THE_MACHINE)]:
        here = re.sub(r"(?<=\s)/(?=etc/)|^/(?=opt/)", f"{tmp_path}/", part)
        here = here.replace("-g stmixer", f"-g {group}").replace("chgrp stmixer", f"chgrp {group}")
        subprocess.run(["bash", "-euc", here], cwd=ROOT, capture_output=True, text=True, check=True)

    keys = tmp_path / "etc" / "stmixer" / "keys.json"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (keys.parent, keys)] == [0o750, 0o640]
    assert [key.name for key in read_keys(keys).keys] == ["NAME"]
    unit = tmp_path / "etc" / "systemd" / "system" / "stmixer.service"
    text = unit.read_text()
    assert "ExecStart=/opt/stmixer/.venv/bin/stmixer serve --keys /etc/stmixer/keys.json\n" in text
    unit.write_text(text.replace("/opt/stmixer", f"{tmp_path}/opt/stmixer"))
    analyze = need("systemd-analyze", "systemd")
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "stmixer" in line] == []
    assert done.returncode == 0, done.stderr
