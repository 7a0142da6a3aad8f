"""The outermost door: whatever way a request came, it is brought into one form before anybody looks at it.

- A target with scheme and host, as proxies may send it (RFC 9112, 3.2.2), counts as its path; its host is the Host.
- From a proxy that ``--forwarded-allow-ips`` names, ``X-Forwarded-For``, ``-Proto`` and ``-Host`` say who asked, how,
  and under which name. From anybody else they say nothing.
- ``--root-path``: with the prefix or without it, as a proxy leaves it or takes it off, the same route is meant.
- A slash at the end means nothing. A redirect would cost a client its video twice, and name a host that only we know.

Behind it ``HeadAsGet``: HEAD is answered as GET would be, without the body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stmixer.service.api.paced import Timed
from stmixer.service.api.protocol import HAS_BEGUN
from stmixer.service.api.senders import SENDER, Bill, Sender, Senders, SentStream

Headers = list[tuple[bytes, bytes]]
FORWARDED_HOSTS = "forwarded_hosts"
"""In a scope's state: the names, with ports where they have one, under which the proxies that we trust were asked."""


_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,32}")


class Peers:
    """Addresses and networks, with commas; ``*`` is everybody. Raises ValueError for what is neither."""

    def __init__(self, listed: str) -> None:
        names = [name for part in listed.split(",") if (name := part.strip())]
        self._everybody = "*" in names
        self._networks = [ipaddress.ip_network(name) for name in names if name != "*"]

    def __contains__(self, address: object) -> bool:
        if self._everybody:
            return True
        try:
            found = ipaddress.ip_address(str(address))
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)


class Entrance:
    """See the module. ``peers``: ``--forwarded-allow-ips``; ``root_path`` begins with a slash, or is empty.

    Of ``senders`` those whom a proxy asks for wait here for their share of the loop's time, as others do before they
    are read (``service.api.connections``).
    """

    def __init__(self, app: ASGIApp, peers: str, root_path: str, senders: Senders | None = None) -> None:
        self._app, self._peers, self._root_path, self._senders = app, Peers(peers), root_path, senders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on the request as it is meant."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = dict(scope)
        _take_apart(scope)
        sender = None
        if scope.get("client") and scope["client"][0] in self._peers:
            self._take_forwarded(scope)
            sender = None if self._senders is None else self._senders.of(scope["client"][0])
        _put_below(scope, self._root_path)
        _take_off_last_slash(scope)
        if sender is None:
            await self._app(scope, receive, send)
            return
        streams = _note_sender(scope, sender)
        await sender.turn()
        try:
            await Timed(cast(Coroutine[Any, Any, None], self._app(scope, receive, send)), Bill(sender).add)
        finally:
            for stream in streams:
                stream.end()

    def _take_forwarded(self, scope: Scope) -> None:
        """What a trusted proxy says of whoever asked it."""
        headers: Headers = scope["headers"]
        schemes = _all(headers, b"x-forwarded-proto")
        if schemes and schemes[-1].lower() in ("http", "https", "ws", "wss"):
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = f"{plain}s" if schemes[-1].lower() in ("https", "wss") else plain
        hops = [hop for hop in map(_address, _all(headers, b"x-forwarded-for")) if is_address(hop)]
        if hops:  # each proxy adds whom it was asked by at the end: the last one that is none of ours is the client
            strangers = [hop for hop in hops if hop not in self._peers]
            scope["client"] = (strangers[-1] if strangers else hops[0], 0)
        hosts = tuple(host.lower() for host in _all(headers, b"x-forwarded-host"))
        scope["state"] = {**scope.get("state", {}), FORWARDED_HOSTS: hosts}


def _note_sender(scope: Scope, sender: Sender) -> list[SentStream]:
    """Leave whose request it is in its state; the live stream that it becomes, as soon as it does."""
    state, streams = {**scope.get("state", {}), SENDER: sender}, list[SentStream]()
    if (begun := state.get(HAS_BEGUN)) is not None:

        def begin(*, live: bool = False) -> None:
            begun(live=live)
            if live and not streams:
                streams.append(SentStream(sender))

        state[HAS_BEGUN] = begin
    scope["state"] = state
    return streams


class HeadAsGet:
    """Whatever answers GET answers HEAD: the same status and headers, and no body.

    Where a body would come bit by bit its sender is told after the first bit that nobody reads on; one that does not
    listen, as of files, is ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application as for GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        answered, listening, told = asyncio.Event(), 0, False

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif not answered.is_set():
                answered.set()
                await send({**message, "body": b"", "more_body": False})
            elif not (listening or told):
                raise _NobodyReadsError

        async def receive_or_gone() -> Message:
            nonlocal listening, told
            listening += 1
            coming, enough = asyncio.ensure_future(receive()), asyncio.ensure_future(answered.wait())
            try:
                await asyncio.wait({coming, enough}, return_when=asyncio.FIRST_COMPLETED)
                told = not coming.done()
                return {"type": "http.disconnect"} if told else coming.result()
            finally:
                listening -= 1
                for task in (coming, enough):
                    task.cancel()

        with suppress(_NobodyReadsError):
            await self._app({**scope, "method": "GET"}, receive_or_gone, send_head)


class _NobodyReadsError(Exception):
    """Ends whatever still sends the body of an answer to HEAD."""


def route_path(scope: Scope) -> str:
    """A request's path without the prefix under which we are served."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _take_apart(scope: Scope) -> None:
    """Make the path of a target that is a whole address, and the Host of its host."""
    path: str = scope["path"]
    for scheme in ("http://", "https://", "ws://", "wss://"):
        if not path.lower().startswith(scheme):
            continue
        host, slash, rest = path[len(scheme) :].partition("/")
        raw: bytes = scope.get("raw_path") or path.encode()
        _, _, raw_rest = raw[len(scheme) :].partition(b"/")
        scope["path"], scope["raw_path"] = "/" + rest if slash else "/", b"/" + raw_rest
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope["headers"] = [(b"host", host.encode("latin-1", "replace")), *others]
        return


def _put_below(scope: Scope, root_path: str) -> None:
    """Say in the scope under which prefix we are served, and have it in the path."""
    scope["root_path"] = root_path
    if root_path and scope["path"] != root_path and not scope["path"].startswith(root_path + "/"):
        scope["path"] = root_path + scope["path"]
        scope["raw_path"] = root_path.encode() + (scope.get("raw_path") or b"")


def _take_off_last_slash(scope: Scope) -> None:
    """Have ``/v1/detect/`` mean ``/v1/detect``; the root stays, and so does a slash that was sent as ``%2F``."""
    path, raw = scope["path"], scope.get("raw_path") or b"/"
    if route_path(scope) != "/" and path.endswith("/") and raw.endswith(b"/"):
        scope["path"], scope["raw_path"] = path[:-1], raw[:-1]


def is_address(name: str) -> bool:
    """Whether that is an IP address; of version 6 with or without brackets, and with a zone that is a name."""
    address, percent, zone = name.strip("[]").partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _all(headers: Headers, wanted: bytes) -> list[str]:
    """A header's values in order, of however many lines."""
    joined = ",".join(value.decode("latin-1") for name, value in headers if name == wanted)
    return [value for part in joined.split(",") if (value := part.strip())]


def _address(hop: str) -> str:
    """An entry of X-Forwarded-For without its port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
