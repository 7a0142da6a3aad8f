"""``GET /v1/streams/{id}/ws``: what a pulled stream says, over a WebSocket (protocol ``stmixer.v1``)."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from stmixer.service.access import Caller, bearer
from stmixer.service.api import protocol
from stmixer.service.api.json_socket import JsonSocket, refusing
from stmixer.service.api.protocol import Follow, ProtocolError
from stmixer.service.api.pulled import NOT_THERE, ONE
from stmixer.service.api.service import Service
from stmixer.service.api.stream_ws import UPGRADE, nobody_asks, not_a_socket, until
from stmixer.service.errors import CapacityError
from stmixer.service.sessions.backlog import Missing
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.stream_messages import FollowerReady, MissingMessage

router = APIRouter()


@router.get(ONE + "/ws", status_code=426, response_model=None, responses=UPGRADE | NOT_THERE)
async def not_this_way(stream_id: int) -> Response:
    """Speaks WebSocket: what the stream says, as the address for cameras does. Asked without, it says so."""
    return await not_a_socket()


@router.websocket(ONE + "/ws")
async def follow_ws(socket: WebSocket, stream_id: int) -> None:
    """Start, then what it says until stop, or its end; see docs/protocol.md."""
    service: Service = socket.app.state.service
    offered = socket.scope.get("subprotocols") or []
    await socket.accept(protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None)
    follower = Follower(service, socket)
    async with refusing(follower.out):
        await follower.run(stream_id)


class Stopped(Exception):
    """Its client wants no more."""


class Follower:
    """One socket."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self.out = JsonSocket(socket, service.settings.write_timeout_s)

    async def run(self, stream_id: int) -> None:
        """From ``start`` to the end. Raises ProtocolError, AccessError, CapacityError, WebSocketDisconnect."""
        access = self._service.access
        secret = bearer(dict(self._socket.scope["headers"]))
        if secret is not None:  # a wrong one need not wait for its start
            access.caller(secret)
        start = protocol.parse_of_follower(await self.out.first(self._service.settings.start_timeout_s))
        if not isinstance(start, Follow):
            raise ProtocolError("no_start", f"the first message must be start, not {start.type}")
        caller = access.caller(secret if start.api_key is None else start.api_key)
        caller.allow("stream")
        caller.spend_request()
        stream = await self._found(stream_id, caller)
        self._socket.scope["state"].get(protocol.HAS_BEGUN, nobody_asks)()
        await self._tell_ready(stream)
        try:
            await until(self._tell(stream, start.last_event_id), self._listen(caller), _lapsed(caller))
        except Stopped:
            await self.out.close(protocol.CLOSE_NORMAL, "stopped")
            return
        if stream.moved:
            await self.out.close(protocol.CLOSE_RESTART, "the stream goes on at another replica: come back")
        elif self._service.engine.entry.draining:
            await self.out.close(protocol.CLOSE_GOING_AWAY, "the service is shutting down")
        else:
            await self.out.close(protocol.CLOSE_NORMAL, "the stream has ended")

    async def _found(self, stream_id: int, caller: Caller) -> PulledStream:
        if self._service.engine.entry.draining:  # its streams are gone or going, and not for good
            raise CapacityError("draining", "the service is shutting down; try another instance")
        stream = self._service.pulled.find(stream_id, caller)
        if stream is None:
            await self._service.check_moving(stream_id, caller)
            what = "there is no such stream that is pulled, or it is not yours"
            raise ProtocolError("not_found", what, protocol.CLOSE_NOT_FOUND)
        return stream

    async def _tell_ready(self, stream: PulledStream) -> None:
        pulled = stream.running().pulled
        assert pulled is not None
        await self.out.send(FollowerReady(session_id=str(stream.id), pulled=pulled, **stream.session.looked_at()))

    async def _tell(self, stream: PulledStream, seen: int | None) -> None:
        following = stream.backlog.follow(seen)
        try:
            async for said in following:
                if isinstance(said, Missing):
                    await self.out.send(MissingMessage(count=said.count))
                else:
                    await self.out.send_text(f'{{"event_id":{said.number},{said.text[1:]}')
                    if said.kind == "summary":
                        return
        finally:
            await following.aclose()

    async def _listen(self, caller: Caller) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(received.get("code", 1006))
            caller.spend_request()
            text = received.get("text")
            if text is None:
                raise ProtocolError("bad_message", "this stream is pulled: it takes no media")
            if isinstance(protocol.parse_of_follower(text), Follow):
                raise ProtocolError("bad_message", "start was sent already")
            raise Stopped


async def _lapsed(caller: Caller) -> None:
    await caller.lapsed.wait()
    caller.check()
