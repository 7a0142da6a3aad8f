"""A real fall through a real service to a real broker, with the service killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers import Mosquitto, comes, ear, kept, mosquitto
from conftest import OWN_CLIPS
from posting import metric
from serving import Server, running_server
from watching import need

PASSWORD = "hunter2-of-the-broker"
FALL = {"id": "fall", "label": "fall", "min_score": 0.45, "for_s": 0, "clear_s": 600}
WITHIN_S = 240.0
EVENT, STATE, AVAILABLE = "stmixer/hall/fall/event", "stmixer/hall/fall/state", "stmixer/available"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    passwords = tmp_path / "passwords"
    program = need("mosquitto_passwd", "mosquitto")
    subprocess.run([program, "-b", "-c", passwords, "cam", PASSWORD], check=True, capture_output=True)
    with mosquitto(tmp_path, f"password_file {passwords}") as it:
        yield it


@pytest.mark.slow
def test_a_fall_is_one_event_at_the_broker_though_the_service_is_killed(tmp_path: Path, broker: Mosquitto) -> None:
    """The clip plays again and again; a fall that goes on is one."""
    order = {"name": "hall", "url": "file:fall.mp4", "loop": True, "keyframe_hz": 2, "score_threshold": 0.3}
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump({"streams": [{**order, "rules": [FALL]}]}))
    terms: dict[str, Any] = {
        "streams": tmp_path / "streams.yaml", "events_file": tmp_path / "events.db", "allow_files": OWN_CLIPS,
        "mqtt": f"mqtt://127.0.0.1:{broker.port}", "mqtt_user": "cam", "mqtt_password": PASSWORD,
        "mqtt_discovery": "homeassistant", "log_level": "debug",
    }  # fmt: skip

    async def body() -> None:
        async with ear(broker) as other:
            with running_server(**terms) as server:
                await other.until(lambda it: it.of(STATE)[-1:] == ["ON"], WITHIN_S)
                assert other.of(AVAILABLE) == ["online"]
                await comes(lambda: metric(server, "event_deliveries_total", to="mqtt", outcome="delivered") >= 1)
                kill(server)
                await other.until(lambda it: it.of(AVAILABLE) == ["online", "offline"])
            with running_server(**terms) as again:
                await other.until(lambda it: it.of(AVAILABLE)[-1] == "online" and len(it.of(EVENT)) >= 2, WITHIN_S)
                assert (await kept(broker))[STATE] == "ON"
            log = "\n".join([*server.log, *again.log])
            assert PASSWORD not in log
            assert "connected to the MQTT broker" in log
            await other.until(lambda it: it.of(AVAILABLE)[-1] == "offline")
            events = [json.loads(payload) for payload in other.of(EVENT)]
            assert [event["state"] for event in events].count("start") == 1
            assert len({event["event_id"] for event in events}) == 1

    asyncio.run(body())


def kill(server: Server) -> None:
    """As a machine without memory does."""
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(10)
    server.process.returncode = 0  # running_server expects a service that ends by itself
