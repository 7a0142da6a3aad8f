"""A source over HTTP: pictures one by one (MJPEG), or a container such as MPEG-TS, fetched by a client of our own.

It connects to addresses that were checked, redirects included, and hands on bytes; FFmpeg hears of no address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import httpx

from stmixer.service.errors import InputError
from stmixer.service.pulled_url import PulledUrl, parse_url
from stmixer.service.sources.allowance import LoopShare
from stmixer.service.sources.camera import RECEIVE_BUFFER, Way, connect_within_s, reachable
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.jpeg_parts import JpegParts, boundary_of
from stmixer.service.sources.pictures import PictureSource
from stmixer.service.sources.trouble import Trouble
from stmixer.service.sources.trust import not_secured

MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_OPTIONS = ((socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER),)
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they would tell addresses and headers, with what is in them


class WebSource:
    """What comes decides which source takes it: pictures have a decoder for the stream's life, containers one each."""

    def __init__(self, context: SourceContext, url: PulledUrl, way: Way, silent_s: float) -> None:
        self._context, self._url, self._way, self._silent_s = context, url, way, silent_s
        self._source: PictureSource | ContainerSource | None = None

    async def fetch(self, begun: Callable[[], None]) -> None:
        """Ask, and hand on what comes, until it ends. Raises Trouble, StmixerError."""
        try:
            async with self._answer() as answer:
                kind = answer.headers.get("content-type", "")
                boundary = boundary_of(kind)
                source = await self._begun(PictureSource if boundary else ContainerSource)
                begun()
                share = LoopShare()
                if boundary is None:
                    async for data in answer.aiter_raw():
                        share.begin()
                        await source.take(data)
                    await source.ended()  # its decoder says when it is done with what has come
                    return
                parts = JpegParts(boundary, self._context.settings.max_frame_bytes)
                async for data in answer.aiter_raw():
                    share.begin()
                    for picture in parts.feed(data):
                        if picture:
                            await source.take(picture)  # the newest wins: it waits for nothing
                        await share.let_others()  # of empty parts, too: there may be thousands in a chunk
                    await share.let_others()
            raise Trouble("ended", "the server ended the stream")
        except httpx.HTTPError as error:
            raise self._trouble(error) from None

    @property
    def owes(self) -> bool:
        """What has come is handed on; whoever takes it is watched."""
        return False

    async def leave(self) -> None:
        """What reads of this connection ends; pictures that have come still count."""
        if self._source is not None:
            self._source.interrupt()

    async def close(self) -> None:
        """Free everything."""
        source, self._source = self._source, None
        if source is not None:
            await source.close()

    async def _begun(self, kind: type[PictureSource] | type[ContainerSource]) -> PictureSource | ContainerSource:
        """The source that takes what comes now."""
        if self._source is not None and not isinstance(self._source, kind):
            raise Trouble("bad_answer", "the server sent pictures and a container in turn; it has to keep to one")
        if self._source is not None:
            await self._source.resume()
            return self._source
        if kind is PictureSource:
            source: PictureSource | ContainerSource = PictureSource(self._context, stamped=False)
        else:
            source = ContainerSource(self._context)
        self._source = source
        await source.open()
        return source

    # -- asking

    @asynccontextmanager
    async def _answer(self) -> AsyncIterator[httpx.Response]:
        """The answer that has the media. Raises Trouble, httpx.HTTPError."""
        trusted = await asyncio.to_thread(self._way.trust.context, "https")
        transport = httpx.AsyncHTTPTransport(verify=trusted, socket_options=_OPTIONS, trust_env=False)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            url = self._url
            for _ in range(MOST_REDIRECTS + 1):
                answer = await self._asked(client, url)
                try:
                    if answer.status_code not in _REDIRECTS:
                        _check_status(answer, url)
                        yield answer
                        return
                    url = _redirected(url, answer.headers.get("location", ""))
                finally:
                    await answer.aclose()
            raise Trouble("redirects", f"{self._url.place} sends us on more than {MOST_REDIRECTS} times")

    async def _asked(self, client: httpx.AsyncClient, url: PulledUrl) -> httpx.Response:
        """One request to a checked address; again with user and password where it asks for those."""
        addresses = await reachable(url, self._way.policy)
        for number, address in enumerate(addresses):
            request = client.build_request(
                "GET", url.at(address, with_credentials=False),
                headers={"Host": url.place, "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "stmixer"},
                extensions={"sni_hostname": url.host},
                timeout=httpx.Timeout(self._silent_s, connect=connect_within_s(len(addresses))),
            )  # fmt: skip
            try:
                answer = await self._sent(client, request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number + 1 == len(addresses):
                    raise
                continue
            if answer.status_code != 401 or not url.user:
                return answer
            await answer.aclose()
            digest = "digest" in answer.headers.get("www-authenticate", "").lower()
            auth = (httpx.DigestAuth if digest else httpx.BasicAuth)(url.user, url.password)
            try:
                # by itself httpx would ask once more first, and read the whole of what is refused
                flow = auth.auth_flow(request)
                request = next(flow)
                with contextlib.suppress(StopIteration):  # Basic has said it already
                    request = flow.send(answer)
            except (LookupError, ValueError, NotImplementedError):  # httpx says no more of a scheme that it lacks
                what = "asks for user and password in a way that is not known here"
                raise Trouble("unauthorized", f"{url.place} {what}") from None
            return await self._sent(client, request)
        raise Trouble("unreachable", f"{url.host} has no address")

    async def _sent(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """An answer's head. Raises Trouble where it takes too long as a whole, however little is between its bytes."""
        within_s = 2 * self._silent_s
        try:
            async with asyncio.timeout(within_s):
                return await client.send(request, stream=True, auth=None)
        except TimeoutError:
            place = self._url.place
            raise Trouble("silent", f"{place} took the connection and gave no answer in {within_s:g} s") from None

    def _trouble(self, error: httpx.HTTPError) -> Trouble:
        place = self._url.place
        match error:
            case httpx.ConnectTimeout():
                return Trouble("timeout", f"{place} does not answer")
            case httpx.TimeoutException():
                return Trouble("silent", f"{place} took the connection and said nothing for {self._silent_s:g} s")
            case httpx.ConnectError():
                cause: BaseException | None = error
                while cause is not None:
                    if isinstance(cause, ssl.SSLError):
                        return not_secured(self._url, cause)
                    if isinstance(cause, ConnectionRefusedError):
                        return Trouble("refused", f"{place} refuses the connection: nothing listens there")
                    cause = cause.__cause__ or cause.__context__
                return Trouble("unreachable", f"{place} cannot be reached")
            case httpx.RemoteProtocolError() if "location header" in str(error):
                return Trouble("redirects", f"{place} sends us to what is no address")
            case httpx.RemoteProtocolError() | httpx.ReadError():
                return Trouble("connection_lost", f"the connection to {place} was lost")
            case _:
                return Trouble("bad_answer", f"the answer of {place} is no use ({type(error).__name__})")


def _check_status(answer: httpx.Response, url: PulledUrl) -> None:
    """Raises Trouble for an answer without media."""
    match answer.status_code:
        case 200:
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise Trouble("bad_answer", f"{url.place} compresses what it sends, unasked")
        case 401 | 403:
            what = "does not take this user and password" if url.user else "asks for a user and a password"
            raise Trouble("unauthorized", f"{url.place} {what}")
        case 404 | 410:
            raise Trouble("no_such_path", f"{url.place} has nothing at this path")
        case status:
            raise Trouble("bad_answer", f"{url.place} answers with status {status}")


def _redirected(url: PulledUrl, location: str) -> PulledUrl:
    """Where we are sent; it is checked as any address is. Credentials stay with the host that they were given for."""
    try:
        to = urlsplit(urljoin(url.at(url.host, with_credentials=False), location))
        path, query = (part.replace("@", "%40") for part in (to.path, to.query))  # nobody's password is here
        there = parse_url(to._replace(path=path, query=query, fragment="").geturl())
    except (InputError, ValueError):
        raise Trouble("redirects", f"{url.place} sends us to what is no address") from None
    if there.scheme not in ("http", "https"):
        raise Trouble("redirects", f"{url.place} sends us to something else than HTTP")
    same = (there.scheme, there.host, there.port) == (url.scheme, url.host, url.port)
    user, password = (url.user, url.password) if same else ("", "")
    return PulledUrl(there.scheme, there.host, there.port, there.target, user, password)
