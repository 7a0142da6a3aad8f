"""A WebSocket that is told things as JSON: one at a time, to a client that has to read, and in the end why it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from stmixer.service.api import protocol
from stmixer.service.api.protocol import ProtocolError
from stmixer.service.api.request_log import note_refusal
from stmixer.service.errors import AccessError, CapacityError
from stmixer.service.stream_messages import ErrorMessage
from stmixer.service.wire import Wire


class JsonSocket:
    """``write_timeout_s``: within which a client has to take a message."""

    def __init__(self, socket: WebSocket, write_timeout_s: float) -> None:
        self._socket, self._write_timeout_s = socket, write_timeout_s
        self._sending = asyncio.Lock()

    async def first(self, timeout_s: float) -> str:
        """The client's first message. Raises ProtocolError where none comes, or none of text."""
        try:
            async with asyncio.timeout(timeout_s):
                received = await self._socket.receive()
        except TimeoutError:
            raise ProtocolError("no_start", f"send a start message within {timeout_s:g} s") from None
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1006))
        text: str | None = received.get("text")
        if text is None:
            raise ProtocolError("no_start", "the first message must be a start message, as text")
        return text

    async def send(self, message: Wire) -> None:
        """Send one message; a client that does not read for long is closed."""
        await self.send_text(message.model_dump_json())

    async def send_text(self, text: str) -> None:
        """The same of one that is written already. Raises ProtocolError, WebSocketDisconnect."""
        try:
            async with self._sending, asyncio.timeout(self._write_timeout_s):
                await self._socket.send_text(text)  # no task of its own: results of one batch would queue behind them
        except TimeoutError:
            what = f"nothing was read for {self._write_timeout_s:g} s"
            raise ProtocolError("slow_client", what, retryable=True) from None
        except RuntimeError as error:  # starlette's word for a socket that is closed already
            raise WebSocketDisconnect(1006) from error

    async def close(self, code: int, reason: str) -> None:
        """Close it, if it is not."""
        if self._socket.application_state == WebSocketState.CONNECTED:
            with contextlib.suppress(TimeoutError, WebSocketDisconnect):  # server.py ends a socket that takes nothing
                async with asyncio.timeout(self._write_timeout_s):
                    await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))

    async def refuse(self, code: str, message: str, close: int, *, retryable: bool) -> None:
        """Say why, and close."""
        note_refusal(self._socket.scope["state"], code)
        try:
            await self.send(ErrorMessage(code=code, message=message, retryable=retryable))
            await self.close(close, message)
        except (WebSocketDisconnect, ProtocolError):
            pass  # nobody is left to tell


@asynccontextmanager
async def refusing(out: JsonSocket) -> AsyncIterator[None]:
    """Around a connection's life: what ends it is said, with the close code of its kind."""
    try:
        yield
    except ProtocolError as error:
        await out.refuse(error.code, str(error), error.close, retryable=error.retryable)
    except AccessError as error:
        await out.refuse(error.code, str(error), protocol.CLOSE_UNAUTHORIZED, retryable=False)
    except CapacityError as error:
        await out.refuse(error.code, str(error), protocol.CLOSE_CAPACITY, retryable=True)
    except WebSocketDisconnect:
        pass  # what it held is freed by now
