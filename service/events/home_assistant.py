"""How Home Assistant finds a rule: a retained message, of which it makes a binary sensor (its MQTT integration, MQTT
discovery, one component a message). Keys and what they may hold are those of its documentation, "MQTT Binary sensor".
"""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from typing import Literal

from stmixer.service.event_schemas import Rule
from stmixer.service.events.topics import OFF, OFFLINE, ON, ONLINE, Topics
from stmixer.service.wire import Wire

PROJECT = "stmixer"


class Availability(Wire):
    """Where it is said whether the sensor means anything."""

    topic: str
    payload_available: str = ONLINE
    payload_not_available: str = OFFLINE


class SensorDevice(Wire):
    """What the sensors of one stream have in common."""

    identifiers: tuple[str, ...]
    name: str
    manufacturer: str = PROJECT
    model: str = "people and what they do"
    sw_version: str


class Origin(Wire):
    """Who says so."""

    name: str = PROJECT
    sw_version: str


class BinarySensor(Wire):
    """On while an event of a rule is open in a stream. ``json_attributes_topic``: the event itself."""

    name: str
    unique_id: str
    state_topic: str
    payload_on: str = ON
    payload_off: str = OFF
    json_attributes_topic: str
    availability: tuple[Availability, ...]
    qos: Literal[1] = 1
    device_class: Literal["occupancy"] | None = None
    device: SensorDevice
    origin: Origin


def config_topic(prefix: str, topics: Topics, stream: str, rule: str) -> str:
    """Where Home Assistant looks for it. ``prefix``: as its MQTT integration is told, by itself ``homeassistant``."""
    return f"{prefix}/binary_sensor/{_node(f'{topics.base}/{stream}')}/{rule}/config"


def sensor(topics: Topics, stream: str, rule: Rule) -> BinarySensor:
    """The message of a rule in a stream."""
    version = metadata.version(PROJECT)
    return BinarySensor(
        name=rule.id, unique_id=topics.rule(stream, rule.id), state_topic=topics.state(stream, rule.id),
        json_attributes_topic=topics.event(stream, rule.id), availability=(Availability(topic=topics.available),),
        device_class="occupancy" if rule.person else None,
        device=SensorDevice(identifiers=(f"{topics.base}/{stream}",), name=stream, sw_version=version),
        origin=Origin(sw_version=version),
    )  # fmt: skip


def _node(name: str) -> str:
    """Letters, digits, - and _ alone, no two names alike."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
