"""Tokens of those who send no header: in a cookie of one address, or, unless that is refused, in the address."""

from __future__ import annotations

import asyncio
import logging
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest

from stmixer.service.access import MOST_TOKENS, TOKEN_S
from stmixer.service.api.app import create_app
from stmixer.service.api.service import Service
from stmixer.service.key_file import Key, KeyFile, digest, write_keys
from stmixer.service.settings import Settings

EVENTS = "/v1/streams/7/events"
OTHERS = ("/v1/streams/7/preview.mjpg", "/v1/streams/8/events", "/v1/streams/70/events")
KEY = {"Authorization": "Bearer viewer"}
OPEN, SHUT = (404, "not_found"), (401, "unauthorized")
"""There is no such stream; whether somebody may ask for one."""


class Door:
    """A service that has not started, and asks for keys."""

    def __init__(self, folder: Path, scheme: str = "http", **settings: Any) -> None:
        keys = tuple(Key(name=name, sha256=digest(name), scopes=("stream",)) for name in ("viewer", "other"))
        write_keys(folder / "keys.json", KeyFile(keys=keys))
        self.service = Service(Settings(keys=folder / "keys.json", allowed_hosts="cam.example", **settings))
        self._app, self._scheme = create_app(self.service), scheme

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport, base = httpx.ASGITransport(self._app), f"{self._scheme}://cam.example"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())

    def token(self, path: str = EVENTS, key: dict[str, str] = KEY) -> tuple[str, Morsel[str]]:
        """A new one, and its cookie."""
        answer = self.ask("POST", "/v1/tokens", headers=key, json={"path": path})
        assert answer.status_code == 201, answer.text
        (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
        return answer.json()["token"], cookie

    def opens(self, path: str, token: str | None = None, name: str = "stmixer-token", **more: Any) -> tuple[int, str]:
        """What is answered to who has a cookie, or not."""
        headers = {} if token is None else {"Cookie": f"a=b; {name}={token}; c=d"}
        answer = self.ask("GET", path, headers={**headers, **more.pop("headers", {})}, **more)
        return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(
    ("scheme", "name"), [("http", "stmixer-token"), ("https", "__Secure-stmixer-token")], ids=["plain", "tls"]
)
def test_a_token_comes_in_a_cookie_of_its_address_alone(tmp_path: Path, scheme: str, name: str) -> None:
    door = Door(tmp_path, scheme)
    token, cookie = door.token()
    assert (cookie.key, cookie.value, cookie["path"], cookie["max-age"]) == (name, token, EVENTS, str(int(TOKEN_S)))
    assert (cookie["httponly"], cookie["samesite"], cookie["domain"]) == (True, "strict", "")
    assert cookie["secure"] == (True if scheme == "https" else "")
    assert door.opens(EVENTS, token, name) == OPEN
    assert [door.opens(path, token, name) for path in OTHERS] == [SHUT] * len(OTHERS)
    assert door.opens(EVENTS, token, "token") == SHUT
    assert door.opens(EVENTS, token[:-1] + "!", name) == SHUT
    assert door.opens(EVENTS) == SHUT
    for path in ("/v1/streams", "/v1/streams/7", "/v1/events", "/v1/labels"):
        assert door.ask("GET", path, headers={"Cookie": f"{name}={token}"}).status_code == 401


def test_a_cookie_that_came_without_tls_counts_there_alone(tmp_path: Path) -> None:
    door = Door(tmp_path, "https")
    token, _ = door.token()
    assert door.opens(EVENTS, token, "stmixer-token") == SHUT


PREFIXES = (
    "/a/b%20c", "/user/anna@x.org/proxy/8000", "/a+b", "/cam:8", "/cam/", "/", "/!$&'()*=~",
    "/api/v1/namespaces/d/services/http:stmixer:8000/proxy",
)  # fmt: skip


@pytest.mark.parametrize(
    ("root_path", "asked", "place"),
    [("", EVENTS, EVENTS), ("/cam", EVENTS, "/cam" + EVENTS), ("/cam", "/cam" + EVENTS, "/cam" + EVENTS),
     *(("", prefix + EVENTS, prefix + EVENTS) for prefix in PREFIXES)],
)  # fmt: skip
def test_behind_a_proxy_it_is_of_the_address_that_the_page_sees(
    tmp_path: Path, root_path: str, asked: str, place: str
) -> None:
    door = Door(tmp_path, root_path=root_path)
    token, cookie = door.token(asked)
    assert cookie["path"] == place
    assert door.opens(root_path + EVENTS, token) == OPEN


@pytest.mark.parametrize(
    "path",
    [EVENTS + "; Domain=evil.example", "/v1/streams/\u0667/events", EVENTS + "\n", "a" + EVENTS,
     *(f"/a{mark}b{EVENTS}" for mark in ";, \t\r\n\0\x7f\"\\é")],
)  # fmt: skip
def test_no_address_puts_words_into_a_cookie(tmp_path: Path, path: str) -> None:
    answer = Door(tmp_path).ask("POST", "/v1/tokens", headers=KEY, json={"path": path})
    assert (answer.status_code, "set-cookie" in answer.headers) == (422, False)


def test_a_token_for_all_addresses_comes_in_no_cookie(tmp_path: Path) -> None:
    answer = Door(tmp_path).ask("POST", "/v1/tokens", headers=KEY)
    assert (answer.status_code, "set-cookie" in answer.headers) == (201, False)


@pytest.mark.parametrize("refused", [False, True])
def test_tokens_in_addresses_can_be_refused(tmp_path: Path, refused: bool, caplog: pytest.LogCaptureFixture) -> None:
    door = Door(tmp_path, refuse_url_tokens=refused)
    token, _ = door.token()
    with caplog.at_level(logging.DEBUG):
        assert door.opens(EVENTS, params={"token": token}) == (SHUT if refused else OPEN)
        assert door.opens(EVENTS, token, params={"token": token}) == (SHUT if refused else OPEN)
        assert door.opens(EVENTS, token) == OPEN
        assert door.opens(EVENTS, params={"token": token}, headers=KEY) == OPEN, "the key counts"
    lines = [f"{line.getMessage()} {line.__dict__}" for line in caplog.records if not line.name.startswith("http")]
    assert len([line for line in lines if EVENTS in line]) == 4
    assert any("'code': 'unauthorized'" in line for line in lines) == refused
    assert not any(token in line for line in lines)


def test_whoever_has_a_key_is_who_that_says(tmp_path: Path) -> None:
    """A cookie is no way to have somebody ask as another one."""
    door = Door(tmp_path)
    token, _ = door.token(key={"Authorization": "Bearer other"})
    assert door.opens(EVENTS, token, headers={"Authorization": "Bearer nobody"}) == SHUT


def test_a_cookie_counts_as_long_as_its_token(tmp_path: Path) -> None:
    door, now = Door(tmp_path), [0.0]
    door.service.access._clock = lambda: now[0]
    first, _ = door.token()
    now[0] = TOKEN_S - 0.1
    assert door.opens(EVENTS, first) == OPEN
    now[0] = TOKEN_S
    assert door.opens(EVENTS, first) == SHUT
    old, _ = door.token()
    for _ in range(MOST_TOKENS):
        door.service.access.token(door.service.access.caller("viewer"), EVENTS)
    assert door.opens(EVENTS, old) == SHUT
