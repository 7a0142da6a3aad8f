"""A real Prometheus (Debian's package) for tests: the committed configuration, pointed at a test's server."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from posting import eventually
from serving import Server

RULES = Path(__file__).resolve().parents[1] / "docker" / "prometheus"


def need(program: str, package: str = "prometheus") -> str:
    """Its path. Missing, it is a failure in CI and a skip by name elsewhere."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        message = f"{program} is missing: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series an expression gives now, but for those that are not numbers."""
        answer = httpx.get(self.url + "/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return [series for series in answer["data"]["result"] if not math.isnan(float(series["value"][1]))]

    def value(self, expression: str) -> float:
        """Of an expression that gives one series; not a number while it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else math.nan


@contextmanager
def running_prometheus(server: Server, folder: Path) -> Iterator[Prometheus]:
    """The committed configuration with another target, looking every second so that a test need not wait a minute."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    if server.admin_key is not None:
        config["scrape_configs"][0]["authorization"] = {"credentials": server.admin_key}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        need("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(f"http://{address}")
            eventually(lambda: _is_ready(prometheus, process), timeout_s=60)
            eventually(lambda: prometheus.value('up{job="stmixer"}'), lambda up: up == 1, 30)
            yield prometheus
        finally:
            process.terminate()


def _is_ready(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "prometheus ended; its log is in the test's folder"
    try:
        return httpx.get(prometheus.url + "/-/ready").status_code == 200
    except httpx.ConnectError:
        return False
