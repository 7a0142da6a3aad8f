"""What docs/events.md says of streams and signatures is so."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import yaml
from blocks import blocks

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.home_assistant import sensor
from stmixer.service.events.rules import check_rules
from stmixer.service.events.topics import Topics
from stmixer.service.events.webhook import signature
from stmixer.service.streams_file import read_streams


def _blocks(kind: str) -> list[str]:
    return [text for found, text in blocks("docs/events.md") if found == kind]


def _rule(tmp_path: Path) -> Rule:
    (tmp_path / "streams.yaml").write_text(_blocks("yaml")[0])
    (rule,) = read_streams(tmp_path / "streams.yaml")["hall"].rules
    return rule


def test_its_file_of_streams_is_one(tmp_path: Path) -> None:
    rule = _rule(tmp_path)
    assert (rule.label, rule.for_s, rule.clear_s) == ("fall", 2, 30)
    check_rules([rule], ["fall"])


def test_its_automation_is_of_the_sensor_that_home_assistant_makes(tmp_path: Path) -> None:
    """Which it calls by the names of the device and of the sensor."""
    told, (_, text) = sensor(Topics("stmixer"), "hall", _rule(tmp_path)), _blocks("yaml")
    automation = yaml.safe_load(text)
    (trigger,) = automation["triggers"]
    assert trigger["entity_id"] == f"binary_sensor.{told.device.name}_{told.name}"
    (attribute,) = re.findall(r"state_attr\(trigger\.entity_id, '(\w+)'\)", text)
    assert attribute in Event.model_fields


def test_its_receiver_knows_what_is_ours() -> None:
    names: dict[str, Any] = {}
    (text,) = _blocks("python")
    exec(text, names)
    now, is_ours = int(time.time()), names["is_ours"]
    assert is_ours(b"hunter2", signature(b"hunter2", now, "{}"), b"{}")
    assert not is_ours(b"hunter2", signature(b"hunter2", now, "{}"), b"{} ")
    assert not is_ours(b"hunter3", signature(b"hunter2", now, "{}"), b"{}")
    assert not is_ours(b"hunter2", signature(b"hunter2", now - 3600, "{}"), b"{}")
