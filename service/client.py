"""A client in Python, sync and async, for clips and cameras. Needs httpx, websockets and pydantic: no torch, no server.

    with Client("http://127.0.0.1:8000", api_key="stm_…") as client:
        for keyframe in client.detect("clip.mp4", keyframe_hz=2).keyframes: ...
        with client.stream(keyframe_hz=4) as stream:
            stream.send(jpeg)
            for result in stream: ...

``AsyncClient`` is the same with ``async`` and ``await``.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import urlencode

import httpx
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection as AsyncSocket
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection as Socket
from websockets.sync.client import connect

from stmixer.service.event_schemas import Event
from stmixer.service.schemas import DetectResponse, Preset, Problem, Result, Summary, TrackChange
from stmixer.service.stream_messages import Ready

SUBPROTOCOL = "stmixer.v1"
NDJSON, MP4 = "application/x-ndjson", "video/mp4"
WARNINGS = "X-Stmixer-Warnings"
Clip = str | Path | bytes
MOST_EVENTS = 1000
"""That a stream's ``events`` holds."""


class Options(TypedDict, total=False):
    """Of a clip, as query parameters; what is left out, or None, is the service's default."""

    model: str | None
    keyframe_hz: float | None
    preset: Preset | None
    score_threshold: float | None
    top_k: int | None
    action_threshold: float | None
    track_max_gap_s: float | None
    lookahead_ms: float | None


class StreamOptions(Options, total=False):
    """Of a stream, as fields of ``start``."""

    codec: Literal["jpeg", "webm", "mpegts", "mp4"]
    policy: Literal["latest", "all"]
    deadline_ms: float | None
    timestamps: Literal["arrival", "prefix"]
    rules: list[dict[str, Any]]
    resume_token: str | None


class ServiceError(Exception):
    """The service said no. ``code`` is stable; ``status`` an HTTP status or a WebSocket close code.

    ``retry_after_s`` is given where the same may succeed later.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class Lines(Iterator[Result | Summary]):
    """An answer line by line: keyframes as they are done, then the summary; ``warnings``, once that is there. Who
    breaks off may ``close`` it, as with ``contextlib.closing``."""

    def __init__(self, lines: Generator[str]) -> None:
        self._lines, self.warnings = lines, list[str]()

    def __next__(self) -> Result | Summary:
        line, warnings = _line(next(self._lines))
        self.warnings += warnings
        return line

    def close(self) -> None:
        """Ends the answer and frees its connection; no line comes any more. May be called twice."""
        self._lines.close()


class AsyncLines(AsyncIterator[Result | Summary]):
    """``Lines`` for asyncio."""

    def __init__(self, lines: AsyncGenerator[str]) -> None:
        self._lines, self.warnings = lines, list[str]()

    async def __anext__(self) -> Result | Summary:
        line, warnings = _line(await anext(self._lines))
        self.warnings += warnings
        return line

    async def aclose(self) -> None:
        """As ``Lines.close``."""
        await self._lines.aclose()


class _Answers:
    """What the two kinds of stream make of the service's messages.

    ``tracks``: who is there now, by ``track_id``; ``events``: what has come of rules, as told, the last of it.
    """

    def __init__(self) -> None:
        self.ready: Ready
        self.summary: Summary | None = None
        self.tracks: dict[int, TrackChange] = {}
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.warnings: list[str] = []
        self.going_away_in_ms: float | None = None
        self._error: tuple[str, str, bool] | None = None

    def _take(self, text: str | bytes) -> Result | None:
        """A result; everything else is remembered."""
        message: dict[str, Any] = json.loads(text)
        match message.pop("type"):
            case "result":
                result = Result.model_validate(message, extra="ignore")
                result.comes_from(None, self.ready.trained)
                return result
            case "ready":
                self.ready = Ready.model_validate(message, extra="ignore")
            case "summary":
                self.warnings += message.pop("warnings", [])
                self.summary = Summary.model_validate(message, extra="ignore")
            case "warning":
                self.warnings.append(message["message"])
            case "track":
                change = TrackChange.model_validate(message, extra="ignore")
                if change.state == "start":
                    self.tracks[change.track_id] = change
                else:
                    self.tracks.pop(change.track_id, None)
            case "event":
                self.events.append(Event.model_validate(message["event"], extra="ignore"))
            case "goaway":
                self.going_away_in_ms = message["time_left_ms"]
            case "error":
                self._error = message["code"], message["message"], message["retryable"]
        return None

    def _closed(self, closed: ConnectionClosed) -> None:
        """Nothing for an end in order. Raises ServiceError."""
        status, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was lost")
        if self._error is not None:
            code, message, retryable = self._error
            raise ServiceError(status, code, message, 1.0 if retryable else None) from None
        if status not in (1000, 1001):
            raise ServiceError(status, "closed", reason, 1.0) from None


class LiveStream(_Answers):
    """An open stream. Iterate for results as they come; that ends after ``stop``, or raises ServiceError."""

    def __init__(self, socket: Socket, start: dict[str, Any]) -> None:
        super().__init__()
        self._socket = socket
        self._say(json.dumps(start))
        while not hasattr(self, "ready"):
            self._receive()

    def send(self, media: bytes, pts_us: int | None = None) -> None:
        """A JPEG, with its time where ``timestamps`` is prefix, or bytes of a container."""
        self._say(media if pts_us is None else pts_us.to_bytes(8, "little") + media)

    def stop(self) -> None:
        """No more media: what is pending still comes, then ``summary`` is there."""
        self._say('{"type":"stop"}')

    def flush(self) -> None:
        """Run what is pending with what is there."""
        self._say('{"type":"flush"}')

    def __iter__(self) -> Iterator[Result]:
        try:
            while True:
                if (result := self._take(self._socket.recv())) is not None:
                    yield result
        except ConnectionClosed as closed:
            self._closed(closed)

    def _receive(self) -> None:
        try:
            self._take(self._socket.recv())
        except ConnectionClosed as closed:
            self._closed(closed)
            raise ServiceError(1006, "closed", "the service closed before it was ready", 1.0) from None

    def _say(self, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # whoever reads results is told why
            self._socket.send(message)


class AsyncLiveStream(_Answers):
    """``LiveStream`` for asyncio; made by ``AsyncClient.stream``."""

    def __init__(self, socket: AsyncSocket) -> None:
        super().__init__()
        self._socket = socket

    async def begin(self, start: dict[str, Any]) -> None:
        """Say ``start`` and wait for ``ready``. Raises ServiceError."""
        await self._say(json.dumps(start))
        try:
            while not hasattr(self, "ready"):
                self._take(await self._socket.recv())
        except ConnectionClosed as closed:
            self._closed(closed)
            raise ServiceError(1006, "closed", "the service closed before it was ready", 1.0) from None

    async def send(self, media: bytes, pts_us: int | None = None) -> None:
        """As ``LiveStream.send``."""
        await self._say(media if pts_us is None else pts_us.to_bytes(8, "little") + media)

    async def stop(self) -> None:
        """As ``LiveStream.stop``."""
        await self._say('{"type":"stop"}')

    async def flush(self) -> None:
        """As ``LiveStream.flush``."""
        await self._say('{"type":"flush"}')

    async def __aiter__(self) -> AsyncIterator[Result]:
        try:
            while True:
                if (result := self._take(await self._socket.recv())) is not None:
                    yield result
        except ConnectionClosed as closed:
            self._closed(closed)

    async def _say(self, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # whoever reads results is told why
            await self._socket.send(message)


class Client:
    """A service at ``url``; ``ssl_context`` for certificates of one's own. Use as ``with``."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._key, self._ssl = url.rstrip("/"), api_key, ssl_context
        self._http = httpx.Client(
            base_url=self._url, headers=_headers(api_key), timeout=timeout_s, verify=ssl_context or True
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def detect(self, clip: Clip, **options: Unpack[Options]) -> DetectResponse:
        """All keyframes of a clip: a path, or the file's bytes. Raises ServiceError, httpx.HTTPError."""
        answer = self._http.post("/v1/detect", content=_bytes(clip), params=_params(options))
        return _response(answer, clip)

    def detect_lines(self, clip: Clip, **options: Unpack[Options]) -> Lines:
        """Keyframes as they are done, then the summary."""
        return Lines(self._lines(clip, options))

    def _lines(self, clip: Clip, options: Options) -> Generator[str]:
        call = self._http.stream(
            "POST", "/v1/detect", content=_bytes(clip), params=_params(options), headers={"Accept": NDJSON}
        )
        with call as answer:
            if not answer.is_success:
                answer.read()
            _check(answer)
            yield from answer.iter_lines()

    def render(self, clip: Clip, target: str | Path, **options: Unpack[Options]) -> list[str]:
        """The clip with boxes and names drawn in, as an mp4; what was odd about it, in words."""
        answer = self._http.post("/v1/detect", content=_bytes(clip), params=_params(options), headers={"Accept": MP4})
        _check(answer)
        if not answer.headers.get("content-type", "").startswith(MP4):
            raise _none_of_ours(answer.status_code)
        Path(target).write_bytes(answer.content)
        return list(json.loads(answer.headers.get(WARNINGS, "[]")))

    def models(self) -> list[dict[str, Any]]:
        """What is served."""
        answer = self._http.get("/v1/models")
        return _models(answer)

    def ready(self) -> bool:
        """Whether it takes work."""
        return self._http.get("/readyz").is_success

    @contextmanager
    def stream(self, **options: Unpack[StreamOptions]) -> Iterator[LiveStream]:
        """A camera's stream. Raises ServiceError where it is not taken, OSError where nobody is there."""
        with _let_in():
            socket = connect(_ws(self._url, options.get("resume_token")), **_connecting(self._key, self._ssl))
        with socket:
            yield LiveStream(socket, {"type": "start", **_given(options)})


class AsyncClient:
    """``Client`` for asyncio. Use as ``async with``."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._key, self._ssl = url.rstrip("/"), api_key, ssl_context
        self._http = httpx.AsyncClient(
            base_url=self._url, headers=_headers(api_key), timeout=timeout_s, verify=ssl_context or True
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def detect(self, clip: Clip, **options: Unpack[Options]) -> DetectResponse:
        """As ``Client.detect``."""
        body = await asyncio.to_thread(_bytes, clip)
        answer = await self._http.post("/v1/detect", content=body, params=_params(options))
        return _response(answer, clip)

    def detect_lines(self, clip: Clip, **options: Unpack[Options]) -> AsyncLines:
        """As ``Client.detect_lines``."""
        return AsyncLines(self._lines(clip, options))

    async def _lines(self, clip: Clip, options: Options) -> AsyncGenerator[str]:
        body = await asyncio.to_thread(_bytes, clip)
        call = self._http.stream(
            "POST", "/v1/detect", content=body, params=_params(options), headers={"Accept": NDJSON}
        )
        async with call as answer:
            if not answer.is_success:
                await answer.aread()
            _check(answer)
            async for line in answer.aiter_lines():
                yield line

    async def models(self) -> list[dict[str, Any]]:
        """As ``Client.models``."""
        answer = await self._http.get("/v1/models")
        return _models(answer)

    async def ready(self) -> bool:
        """As ``Client.ready``."""
        return (await self._http.get("/readyz")).is_success

    @asynccontextmanager
    async def stream(self, **options: Unpack[StreamOptions]) -> AsyncIterator[AsyncLiveStream]:
        """As ``Client.stream``."""
        with _let_in():
            socket = await connect_async(
                _ws(self._url, options.get("resume_token")), **_connecting(self._key, self._ssl)
            )
        async with socket:
            stream = AsyncLiveStream(socket)
            await stream.begin({"type": "start", **_given(options)})
            yield stream


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def _connecting(api_key: str | None, context: ssl.SSLContext | None) -> dict[str, Any]:
    # what is sent is compressed already, and a stream's pace is watched by its media, not by pings
    return {
        "subprotocols": [SUBPROTOCOL], "additional_headers": _headers(api_key), "ssl": context,
        "compression": None, "max_size": None,
    }  # fmt: skip


def _ws(url: str, resume_token: str | None = None) -> str:
    """Of several services that stand behind one address a token names the one that it is from."""
    home, dot, _ = (resume_token or "").partition(".")
    scheme = f"ws{url[len('http') :]}" if url[:4].lower() == "http" else url
    return f"{scheme}/v1/streams/ws" + (f"?{urlencode({'replica': home})}" if dot else "")


def _bytes(clip: Clip) -> bytes:
    return clip if isinstance(clip, bytes) else Path(clip).read_bytes()


def _params(options: Options) -> dict[str, str]:
    return {name: str(value) for name, value in _given(options).items()}


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _response(answer: httpx.Response, clip: Clip) -> DetectResponse:
    _check(answer)
    with _of_the_service(answer.status_code):
        response = DetectResponse.model_validate_json(answer.content, extra="ignore")
    video = None if isinstance(clip, bytes) else Path(clip)
    for keyframe in response.keyframes:
        keyframe.comes_from(video, response.trained)
    return response


def _models(answer: httpx.Response) -> list[dict[str, Any]]:
    _check(answer)
    with _of_the_service(answer.status_code):
        return list(answer.json()["models"])


def _line(text: str) -> tuple[Result | Summary, list[str]]:
    """One of lines, and the warnings in it. Raises ServiceError for what is none."""
    with _of_the_service(200):
        line = json.loads(text)
        if "summary" in line:
            return Summary.model_validate(line["summary"], extra="ignore"), list(line.get("warnings", []))
        return Result.model_validate(line, extra="ignore"), []


def _check(answer: httpx.Response) -> None:
    """Raises ServiceError for an answer that is an error, or sends us elsewhere."""
    if not answer.is_success:
        raise _error(answer.status_code, answer.reason_phrase, answer.headers, answer.content)


def _error(status: int, phrase: str, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """What an answer that is no success says, be it the service's or a proxy's."""
    wait = _seconds(headers.get("retry-after", ""))
    try:
        problem = Problem.model_validate_json(content, extra="ignore")
    except ValidationError:
        there = f"; it sends us to {headers['location']}" if 300 <= status < 400 and "location" in headers else ""
        return ServiceError(status, "http_error", phrase + there, wait)
    return ServiceError(status, problem.code, problem.detail, wait)


def _none_of_ours(status: int) -> ServiceError:
    return ServiceError(status, "http_error", "the answer is none of the service's; is something else at this address?")


@contextmanager
def _of_the_service(status: int) -> Iterator[None]:
    """Around reading what came. Raises ServiceError where that is something else: a sign-in, a proxy's page."""
    try:
        yield
    except (ValueError, LookupError, TypeError):  # what pydantic and json raise is a ValueError
        raise _none_of_ours(status) from None


@contextmanager
def _let_in() -> Iterator[None]:
    """Around connecting. Raises ServiceError where the answer is no WebSocket's: the service's own, or a proxy's."""
    try:
        yield
    except InvalidStatus as refused:
        raise _refused(refused) from None
    except (InvalidURI, ValueError) as error:
        if isinstance(sends_us := error.__context__, InvalidStatus):  # to what is no WebSocket
            raise _refused(sends_us) from None
        raise
    except InvalidHandshake as error:
        raise ServiceError(1006, "closed", str(error), 1.0) from None


def _refused(refused: InvalidStatus) -> ServiceError:
    answer = refused.response
    if 200 <= answer.status_code < 300:
        return _none_of_ours(answer.status_code)
    return _error(answer.status_code, answer.reason_phrase, answer.headers, bytes(answer.body or b""))


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After header, which gives seconds or a date (RFC 9110, 10.2.3); None where it gives neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
