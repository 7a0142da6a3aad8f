"""What Home Assistant is told is what its documentation has: keys, what they may hold, and where it looks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from scenes import event

from stmixer.service.event_schemas import Rule
from stmixer.service.events.home_assistant import config_topic, sensor
from stmixer.service.events.topics import Topics, level

# https://www.home-assistant.io/integrations/mqtt/#discovery-topic
TOPIC = re.compile(r"(?P<component>\w+)/(?:(?P<node_id>[a-zA-Z0-9_-]+)/)?(?P<object_id>[a-zA-Z0-9_-]+)/config")
# https://www.home-assistant.io/integrations/binary_sensor.mqtt/#configuration-variables
SENSOR: dict[str, type | tuple[type, ...]] = {
    "availability": list, "availability_mode": str, "availability_template": str, "availability_topic": str,
    "default_entity_id": str, "device": dict, "device_class": (str, type(None)), "enabled_by_default": bool,
    "encoding": str, "entity_category": str, "entity_picture": str, "expire_after": int, "force_update": bool,
    "group": list, "icon": str, "json_attributes_template": str, "json_attributes_topic": str,
    "name": (str, type(None)), "off_delay": int, "origin": dict, "payload_available": str,
    "payload_not_available": str, "payload_off": str, "payload_on": str, "platform": str, "qos": int,
    "state_topic": str, "unique_id": str, "value_template": str,
}  # fmt: skip
AVAILABILITY = {"topic": str, "payload_available": str, "payload_not_available": str, "value_template": str}
DEVICE = {
    "configuration_url": str, "connections": list, "hw_version": str, "identifiers": list, "manufacturer": str,
    "model": str, "model_id": str, "name": str, "serial_number": str, "suggested_area": str, "sw_version": str,
    "via_device": str,
}  # fmt: skip
# https://www.home-assistant.io/integrations/mqtt/#adding-information-about-the-origin-of-a-discovery-message
ORIGIN = {"name": str, "sw_version": str, "support_url": str}
# https://www.home-assistant.io/integrations/binary_sensor/#device-class
DEVICE_CLASSES = {
    "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas", "heat",
    "light", "lock", "moisture", "motion", "moving", "occupancy", "opening", "plug", "power", "presence", "problem",
    "running", "safety", "smoke", "sound", "tamper", "update", "vibration", "window",
}  # fmt: skip
BLOCKED = {"available", "device_class", "entity_picture", "icon", "name", "unique_id", "unit_of_measurement"}
"""Attributes that it does not take from a message."""


def faults(payload: dict[str, Any]) -> list[str]:
    """What is wrong with a binary sensor's message."""
    found = _wrong(payload, SENSOR, "state_topic")
    if "availability" in payload and "availability_topic" in payload:
        found.append("availability and availability_topic exclude each other")
    if payload.get("qos", 0) not in (0, 1, 2):
        found.append("qos is 0, 1 or 2")
    if payload.get("device_class") not in {None, *DEVICE_CLASSES}:
        found.append("there is no such device_class")
    for each in payload.get("availability", ()):
        found += _wrong(each, AVAILABILITY, "topic")
    device = payload.get("device")
    if device is not None:
        found += _wrong(device, DEVICE)
        if not (device.get("identifiers") or device.get("connections")):
            found.append("a device has an identifier or a connection")
        if "unique_id" not in payload:
            found.append("a device needs unique_id")
    return found + (_wrong(payload["origin"], ORIGIN, "name") if "origin" in payload else [])


def _wrong(given: dict[str, Any], known: dict[str, Any], *needed: str) -> list[str]:
    return [
        *(f"{key} is no key" for key in given if key not in known),
        *(f"{key} is missing" for key in needed if key not in given),
        *(f"{key} is not {known[key]}" for key in given if key in known and not isinstance(given[key], known[key])),
    ]


@pytest.mark.parametrize(
    "rule", [Rule(id="fall", label="fall"), Rule(id="here", person=True), Rule(id="a-B_9", label="lie", min_score=0.1)]
)
@pytest.mark.parametrize("stream", ["hall", "Küche", "a/b", "+", "# 1", "日本", "x" * 100])
@pytest.mark.parametrize("base", ["stmixer", "home/cams"])
def test_a_sensor_is_what_its_documentation_has(rule: Rule, stream: str, base: str) -> None:
    topics = Topics(base)
    payload = json.loads(sensor(topics, stream, rule).model_dump_json(exclude_none=True))
    assert faults(payload) == []
    assert payload["state_topic"] == f"{base}/{level(stream)}/{rule.id}/state"
    assert payload["json_attributes_topic"] == f"{base}/{level(stream)}/{rule.id}/event"
    assert payload["availability"] == [
        {"topic": f"{base}/available", "payload_available": "online", "payload_not_available": "offline"}
    ]
    assert (payload["device"]["name"], payload["name"]) == (stream, rule.id)
    assert payload.get("device_class") == ("occupancy" if rule.person else None)
    for key in ("state_topic", "json_attributes_topic"):
        assert not set(payload[key]) & set("+#\0")
    topic = config_topic("homeassistant", topics, stream, rule.id)
    found = TOPIC.fullmatch(topic.removeprefix("homeassistant/"))
    assert found is not None
    assert (found["component"], found["object_id"]) == ("binary_sensor", rule.id)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"colour": "red"}, "colour is no key"),
        ({"qos": 3}, "qos is 0, 1 or 2"),
        ({"state_topic": 1}, "state_topic is not <class 'str'>"),
        ({"availability_topic": "x"}, "availability and availability_topic exclude each other"),
        ({"device": {"name": "x"}}, "a device has an identifier or a connection"),
        ({"device": {"identifiers": ["x"], "wheels": 4}}, "wheels is no key"),
        ({"origin": {}}, "name is missing"),
        ({"device_class": "fall"}, "there is no such device_class"),
    ],
)
def test_a_fault_is_seen(changed: dict[str, Any], fault: str) -> None:
    payload = json.loads(sensor(Topics("a"), "b", Rule(id="c", label="d")).model_dump_json(exclude_none=True))
    assert faults(payload | changed) == [fault]


def test_no_two_names_share_a_topic() -> None:
    names = ["a/b", "a%2Fb", "a%2fb", "a b", "a_b", "a+b", "a#b", "a\0b", "a\nb", "ab", "A/b", "a\ufffeb", "Küche"]
    assert len({level(name) for name in names}) == len(names)
    assert len({config_topic("h", Topics("s"), name, "r") for name in names}) == len(names)
    assert [level(name) for name in ("a/b", "Küche 1", "100%", "a\0b")] == ["a%2Fb", "Küche 1", "100%25", "a%00b"]
    unique = [("hall", "a_b"), ("hall_a", "b"), ("hall/a", "b")]
    assert len({sensor(Topics("s"), name, Rule(id=rule, label="x")).unique_id for name, rule in unique}) == 3


def test_an_event_is_attributes_that_home_assistant_takes() -> None:
    given = json.loads(event("a").model_dump_json())
    assert not set(given) & BLOCKED
    assert {"event_id", "track_id", "started_at_us", "score_max"} <= set(given)
