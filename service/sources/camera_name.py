"""The name by which a camera over RTSP is asked.

FFmpeg connects to what stands in its URL, so that has an address that was checked in the host's place. A server may
know its cameras by their names: what FFmpeg asks it is asked under the URL that was given, and a password's digest (RFC
2617, 3.2.2), which is made of method and URL, is made anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from stmixer.service.pulled_url import PulledUrl
from stmixer.service.sources.interleaved import Message

_LONGEST = 4096
"""Bytes of a line with a digest that is read; FFmpeg's requests have fewer (``MAX_URL_SIZE``)."""


@dataclass(frozen=True, slots=True)
class CameraName:
    """``url``: as it was given; ``address``: what was checked, and stands in FFmpeg's URL."""

    url: PulledUrl
    address: str

    @property
    def host(self) -> str:
        """What its certificate has to have, and what a server of many hosts is asked for."""
        return self.url.host

    def put(self, message: Message) -> Message:
        """A request of FFmpeg's as the camera is to hear it; what names no address of ours stays as it is, and so does
        what has a digest that is none of FFmpeg's."""
        method, _, rest = message.data.partition(b" ")
        target, _, rest = rest.partition(b" ")
        literal, named = self._origin(self.address, "rtsp"), self._origin(self.url.host, self.url.scheme)
        path = target[len(literal) :]
        if named == literal or not target.startswith(literal) or path[:1] not in (b"", b"/", b"?"):
            return message
        named += path
        before, digest, after = rest.partition(b'uri="%b", response="' % target)
        if digest:
            _, _, after = after.partition(b'"')  # it was of the other URL
            made = self._digest(method, named, before.rpartition(b"\r\n")[2], after.partition(b"\r\n")[0])
            if made is None:
                return message
            rest = before + b'uri="%b", response="%b"' % (named, made) + after
        return Message(b" ".join((method, named, rest)))

    def _origin(self, host: str, scheme: str) -> bytes:
        return replace(self.url, target="").at(host, with_credentials=False, scheme=scheme).encode()

    def _digest(self, method: bytes, uri: bytes, before: bytes, after: bytes) -> bytes | None:
        """The answer to a question for the password, which has ``before`` and ``after`` around it in its line; None
        where that is not as FFmpeg (8.1) writes it: in one order, and quotes within quotes as they are."""
        if len(before) + len(uri) + len(after) > _LONGEST:
            return None
        user, _, password = f"{self.url.user}:{self.url.password}".encode().partition(b":")  # as FFmpeg parts them
        _, _, asked = before.partition(b'Digest username="%b", realm="' % user)
        realm, found, nonce = asked.removesuffix(b'", ').partition(b'", nonce="')
        if not found:
            return None
        _, counts, counted = after.rpartition(b', qop="')
        qop, _, counted = counted.partition(b'", cnonce="')
        cnonce, _, count = counted.partition(b'", nc=')
        secret = _md5(user, realm, password)
        if after.startswith(b', algorithm="MD5-sess"'):
            secret = _md5(secret, nonce, cnonce)
        return _md5(secret, nonce, *((count, cnonce, qop) if counts else ()), _md5(method, uri))


def _md5(*parts: bytes) -> bytes:
    """As servers want it of a digest; FFmpeg knows no other."""
    return hashlib.md5(b":".join(parts), usedforsecurity=False).hexdigest().encode()
