"""The WebSockets for programs: an AsyncAPI 3 document, made of the messages' own types.

Its schemas are in the dialect that AsyncAPI 3 has where a message names none, JSON Schema draft 07: whoever reads it
needs to know of no other. pydantic writes 2020-12 (``as_draft_07``).
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from stmixer.service.api import protocol
from stmixer.service.schemas import Result, TrackChange
from stmixer.service.stream_messages import TOLD, TOLD_TO_FOLLOWERS, FollowerReady, GoawayMessage, MissingMessage

router = APIRouter()

Document = dict[str, Any]

SAID = (protocol.Start, protocol.Update, protocol.Flush, protocol.Stop)
SAID_BY_FOLLOWERS = (protocol.Follow, protocol.Stop)
NOT_NUMBERED = (FollowerReady, MissingMessage, TOLD_TO_FOLLOWERS[-1])
"""Of what followers are told: it is of their socket, and no part of what the stream has said."""


@router.get("/asyncapi.json", response_model=None)
async def asyncapi() -> Response:
    """The messages of WebSockets as an AsyncAPI 3 document."""
    return Response(written(), media_type="application/json")


@functools.cache
def written() -> bytes:
    """``document`` as JSON, made once: it is of the code alone, and anybody may ask for it."""
    return json.dumps(document(), separators=(",", ":")).encode()


def document() -> Document:
    """What ``/asyncapi.json`` answers with, of no service that runs; it is the service that receives and sends."""
    messages, schemas = Messages(), "#/components/schemas/"
    said = [messages.add(_type(model), model, "validation") for model in SAID]
    told = [messages.add(_type(model), model, "serialization") for model in TOLD]
    told += [messages.add("result", Result, "serialization"), messages.add("track", TrackChange, "serialization")]
    followed = [messages.add(f"{_type(model)} of followers", model, "validation") for model in SAID_BY_FOLLOWERS]
    known = {_type(model) for model in TOLD_TO_FOLLOWERS}
    also = [model for model in TOLD if _type(model) not in known and model is not GoawayMessage]
    to_followers = [
        messages.add(f"{name} to followers", model, "serialization", numbered=model not in NOT_NUMBERED)
        for name, model in [
            *((_type(model), model) for model in (*TOLD_TO_FOLLOWERS, *also)),
            ("result", Result), ("track", TrackChange),
        ]
    ]  # fmt: skip
    media = messages.add_media()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stmixer",
            "version": version("stmixer"),
            "description": f"WebSockets of the service, subprotocol `{protocol.SUBPROTOCOL}`. Closing codes and what "
            "messages mean: docs/protocol.md. Requests over HTTP: /openapi.json.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": _channel("/v1/streams/ws", "A camera's media, and what is found in it.", [*said, media, *told]),
            "follow": _channel(
                "/v1/streams/{stream_id}/ws", "What a stream that the service fetches says.", [*followed, *to_followers]
            )
            | {"parameters": {"stream_id": {"description": "the stream's id"}}},
        },
        "operations": {
            "receive": _operation("receive", "stream", [*said, media]),
            "send": _operation("send", "stream", told),
            "receiveOfFollowers": _operation("receive", "follow", followed),
            "sendToFollowers": _operation("send", "follow", to_followers),
        },
        "components": {"messages": messages.messages, "schemas": messages.schemas(schemas)},
    }


class Messages:
    """Messages by their keys in the document, and the types that they have."""

    def __init__(self) -> None:
        self.messages: dict[str, Document] = {}
        self._payloads: dict[str, tuple[type[BaseModel], str, str, bool]] = {}

    def add(self, name: str, model: type[BaseModel], mode: str, *, numbered: bool = False) -> str:
        """A message in JSON; ``numbered``: with an ``event_id``. Its key."""
        kind = name.split(" ", 1)[0]
        key = "".join(word.capitalize() for word in name.split())
        self._payloads[key] = model, mode, kind, numbered
        self.messages[key] = {
            "name": kind,
            "title": name,
            "summary": (inspect.getdoc(model) or "").splitlines()[0],
            "payload": {"$ref": f"#/components/schemas/message.{key}"},
        }
        return key

    def add_media(self) -> str:
        """Binary messages. Its key."""
        self.messages["Media"] = {
            "name": "media",
            "title": "media",
            "summary": "Binary: a picture as JPEG, with `timestamps: prefix` behind 8 bytes of little-endian µs, or a "
            "part of a container.",
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "format": "binary"},
        }
        return "Media"

    def schemas(self, place: str) -> Document:
        """Every payload's schema, and those that they refer to."""
        wanted = [(model, mode) for model, mode, _, _ in self._payloads.values()]
        refs, shared = models_json_schema(list(dict.fromkeys(wanted)), ref_template=place + "{model}")  # type: ignore[arg-type]
        defined: Document = shared["$defs"]
        made = {}
        for key, (model, mode, kind, numbered) in self._payloads.items():
            schema = copy.deepcopy(defined[refs[model, mode]["$ref"].rpartition("/")[2]])  # type: ignore[index]
            fields = {"type": {"type": "string", "const": kind}} | ({"event_id": _EVENT_ID} if numbered else {})
            schema["properties"] = fields | {n: v for n, v in schema["properties"].items() if n not in fields}
            schema["required"] = [*fields, *(n for n in schema.get("required", []) if n not in fields)]
            made[f"message.{key}"] = schema  # a name that no type has
        used = _references(made, defined, place)
        whole = {name: defined[name] for name in sorted(used)} | made
        return {name: as_draft_07(schema) for name, schema in whole.items()}


_EVENT_ID = {"type": "integer", "minimum": 0, "description": "counts on; to come back with, as `last_event_id`"}


def as_draft_07(schema: Any) -> Any:
    """What pydantic writes of a type, JSON Schema 2020-12, so that it says the same by draft 07."""
    if isinstance(schema, list):
        return [as_draft_07(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value if key in _VALUES else as_draft_07(value) for key, value in schema.items()}
    if "prefixItems" in made:  # places of a tuple; there, items is what comes after them
        rest = {"additionalItems": made["items"]} if "items" in made else {}
        made = {**made, "items": made["prefixItems"], **rest}
        del made["prefixItems"]
    if "$ref" in made and len(made) > 1:  # what stands beside a reference does not count there
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made


_VALUES = ("const", "default", "enum", "examples")
"""Keywords whose values are no schemas."""


def _references(node: Any, defined: Document, place: str) -> set[str]:
    """Names of shared schemas that something refers to, through others too."""
    found: set[str] = set()
    todo = [node]
    while todo:
        each = todo.pop()
        if isinstance(each, list):
            todo += each
        elif isinstance(each, dict):
            todo += each.values()
            name = each["$ref"].removeprefix(place) if isinstance(each.get("$ref"), str) else None
            if name is not None and name not in found:
                found.add(name)
                todo.append(defined[name])
    return found


def _channel(address: str, summary: str, keys: list[str]) -> Document:
    return {
        "address": address,
        "summary": summary,
        "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in keys},
        "bindings": {"ws": {"method": "GET"}},
    }


def _operation(action: str, channel: str, keys: list[str]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in keys],
    }


def _type(model: type[BaseModel]) -> str:
    """The ``type`` that a message says."""
    return str(model.model_fields["type"].annotation.__args__[0])  # type: ignore[union-attr]
