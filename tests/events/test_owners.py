"""Whose events a caller sees, and what a client makes of those it is told."""

from __future__ import annotations

import json

from scenes import PLACES, T0_US

from stmixer.service.access import Caller
from stmixer.service.api.events import owner_seen
from stmixer.service.client import _Answers
from stmixer.service.event_schemas import Event
from stmixer.service.key_file import Key, digest
from stmixer.service.stream_messages import EventMessage


def test_a_key_sees_its_own_and_an_admin_all() -> None:
    mine = Key(name="me", sha256=digest("secret"), scopes=("stream",))
    assert owner_seen(Caller(None)) is None
    assert owner_seen(Caller(mine)) == digest("secret")
    assert owner_seen(Caller(mine.model_copy(update={"scopes": ("stream", "admin")}))) is None


def test_a_client_has_the_events_that_it_was_told() -> None:
    event = Event(
        event_id="a", rule="fall", stream="1", state="start", track_id=1, started_at_us=T0_US, ended_at_us=None,
        score_max=0.9, box=PLACES[0], zone=None,
    )  # fmt: skip
    answers, message = _Answers(), json.loads(EventMessage(event=event).model_dump_json())
    assert answers._take(json.dumps(message)) is None
    message["event"]["since"] = "a later version's"
    answers._take(json.dumps(message))
    assert list(answers.events) == [event, event]
