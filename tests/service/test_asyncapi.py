"""``/asyncapi.json``: what it says of messages is what is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from stmixer.service.api import protocol
from stmixer.service.api.asyncapi import as_draft_07, document, written
from stmixer.service.schemas import Action, Actor, FrameSize, Result, Summary, Timings, TrackChange
from stmixer.service.stream_messages import (
    TOLD,
    TOLD_TO_FOLLOWERS,
    FollowedStatus,
    FollowedSummary,
    ReadyLabel,
    RestartedMessage,
    SummaryMessage,
)

ACTOR = Actor((1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, 0.4), 0.9, (Action(3, "stand", 0.5, 0.4),), 1)
RESULT = Result(
    seq=1, pts_us=2, received_at_us=3, sent_at_us=4, warming=False, dropped_since_last=0, actors=(ACTOR,),
    timings_ms=Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0), frame=FrameSize(width=1, height=2),
)  # fmt: skip
TRACK = TrackChange(track_id=1, state="start", seq=0, pts_us=0)
RESTARTED = RestartedMessage(
    summary=Summary(), warnings=[], lookahead_ms=0, keyframe_hz=1, model="m", trained=True,
    labels=(ReadyLabel(id=1, name="stand"),),
)  # fmt: skip


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def looked_up(whole: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        whole = whole[part]
    return whole


def keywords(node: Any) -> set[str]:
    """All names in it, of fields and of types too."""
    if isinstance(node, list):
        return set().union(*map(keywords, node))
    return set(node).union(*map(keywords, node.values())) if isinstance(node, dict) else set()


def is_right(whole: dict[str, Any], key: str, said: str) -> bool:
    """By draft 07: a message without a ``schemaFormat`` has AsyncAPI's own dialect, which is made of that."""
    schema = {"$ref": f"#/components/schemas/message.{key}", "components": whole["components"]}
    return bool(Draft7Validator(schema).is_valid(json.loads(said)))


def test_it_is_an_asyncapi_document() -> None:
    """By the rules of AsyncAPI 3.0.0 that bear on what it has: fields that must be there, and where references may
    lead: an operation's messages to those of its channel, a channel's to components."""
    whole = document()
    assert set(whole) == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert whole["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(whole["info"])
    for reference in references(whole):
        assert looked_up(whole, reference)
    for channel in whole["channels"].values():
        assert channel["address"].startswith("/v1/streams/")
        assert set(channel.get("parameters", {})) == ({"stream_id"} if "{" in channel["address"] else set())
        assert all(m == {"$ref": f"#/components/messages/{key}"} for key, m in channel["messages"].items())
    used = set()
    for operation in whole["operations"].values():
        assert operation["action"] in ("send", "receive")
        for message in operation["messages"]:
            place, _, key = message["$ref"].rpartition("/")
            assert place == operation["channel"]["$ref"] + "/messages"
            used.add(key)
    assert used == set(whole["components"]["messages"]), "every message is somebody's"
    for key, message in whole["components"]["messages"].items():
        assert {"name", "summary", "payload"} <= set(message)
        assert key == "Media" or message["payload"] == {"$ref": f"#/components/schemas/message.{key}"}
    assert "schemaFormat" not in keywords(whole)
    for schema in whole["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
        later = {"prefixItems", "$defs", "unevaluatedProperties", "dependentRequired", "discriminator"}
        assert not keywords(schema) & later, "of later drafts, or of OpenAPI alone"


def test_what_stands_beside_a_reference_and_what_comes_after_a_tuple_counts() -> None:
    pair = {"type": "array", "prefixItems": [{"type": "number"}, {"$ref": "#/x", "description": "y"}], "items": False}
    assert as_draft_07({"properties": {"a": pair}, "default": {"$ref": 1, "b": 2}}) == {
        "properties": {
            "a": {
                "type": "array",
                "items": [{"type": "number"}, {"allOf": [{"$ref": "#/x"}], "description": "y"}],
                "additionalItems": False,
            }
        },
        "default": {"$ref": 1, "b": 2},
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"box":[0.1,0.2,0.3,0.4]', '"box":[0.1,0.2,0.3]'),
        ('"box":[0.1,0.2,0.3,0.4]', '"box":[0.1,0.2,0.3,"0.4"]'),
        ('"box":[0.1,0.2,0.3,0.4]', '"box":[0.1,0.2,0.3,0.4,0.5]'),
        (',"smoothed":0.4', ""),
        ('"smoothed":0.4', '"smoothed":null'),
    ],
)
def test_places_of_a_box_are_numbers_and_a_smoothed_score_is_always_there(before: str, after: str) -> None:
    whole, said = document(), '{"type":"result",' + RESULT.model_dump_json()[1:]
    assert before in said
    assert is_right(whole, "Result", said)
    assert not is_right(whole, "Result", said.replace(before, after))


def test_it_is_made_once() -> None:
    """15 ms of the event loop, which anybody may ask for."""
    assert json.loads(written()) == document()
    assert written() is written()


def test_every_message_of_the_code_is_in_it() -> None:
    messages, operations = document()["components"]["messages"], document()["operations"]

    def names(operation: str) -> set[str]:
        return {messages[m["$ref"].rpartition("/")[2]]["name"] for m in operations[operation]["messages"]}

    def types(*models: Any) -> set[str]:
        return {model.model_fields["type"].annotation.__args__[0] for model in models}

    assert names("receive") == {"start", "update", "flush", "stop", "media"}
    assert names("send") == types(*TOLD) | {"result", "track"}
    assert names("receiveOfFollowers") == {"start", "stop"}
    assert names("sendToFollowers") == types(*TOLD, *TOLD_TO_FOLLOWERS) - {"goaway"} | {"result", "track"}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("Result", '{"type":"result",' + RESULT.model_dump_json()[1:]),
        ("Track", '{"type":"track",' + TRACK.model_dump_json()[1:]),
        ("Summary", SummaryMessage(warnings=["odd"]).model_dump_json()),
        ("Start", '{"type":"start","keyframe_hz":4}'),
        ("Update", '{"type":"update","top_k":3}'),
        ("StartOfFollowers", '{"type":"start","last_event_id":7}'),
        ("ResultToFollowers", '{"event_id":5,"type":"result",' + RESULT.model_dump_json()[1:]),
        ("StatusToFollowers", '{"event_id":5,' + FollowedStatus(state="live", error=None).model_dump_json()[1:]),
        ("RestartedToFollowers", '{"event_id":5,' + RESTARTED.model_dump_json()[1:]),
        (
            "SummaryToFollowers",
            '{"event_id":5,' + FollowedSummary(summary=Summary(), warnings=[]).model_dump_json()[1:],
        ),
    ],
)
def test_what_is_said_is_what_it_says(key: str, said: str) -> None:
    whole = document()
    assert is_right(whole, key, said)
    assert not is_right(whole, key, said.replace("{", '{"unknown":1,', 1)), "unknown fields are errors"
    assert not is_right(whole, key, said.replace('"type":', '"typ":', 1))
    assert ('"event_id"' in said) is ("event_id" in whole["components"]["schemas"][f"message.{key}"]["required"])
    if key in ("Start", "Update"):
        assert protocol.parse(said)
