"""The name by which a camera over RTSP is asked.

FFmpeg connects to what stands in its URL, so that has an address that was checked in the host's place. A server may
know its cameras by their names: what FFmpeg asks it is asked under the URL that was given, and a password's digest (RFC
2617, 3.2.2), which is made of method and URL, is made anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from stmixer.service.pulled_url import PulledUrl
from stmixer.service.sources.interleaved import Message

_SAID = re.compile(rb'(\w+)=(?:"([^"]*)"|([^\s",]+))')
"""What stands in a line that has a digest: names and values."""


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
        """A request of FFmpeg's as the camera is to hear it; what names no address of ours stays as it is."""
        method, _, rest = message.data.partition(b" ")
        target, _, rest = rest.partition(b" ")
        literal = self._origin(self.address, "rtsp")
        if not target.startswith(literal) or target[len(literal) : len(literal) + 1] not in (b"", b"/", b"?"):
            return message
        named = self._origin(self.url.host, self.url.scheme) + target[len(literal) :]
        before, digest, after = rest.partition(b'uri="%b", response="' % target)
        if digest:
            _, _, after = after.partition(b'"')  # it was of the other URL
            line = before.rpartition(b"\r\n")[2] + after.partition(b"\r\n")[0]
            rest = before + b'uri="%b", response="%b"' % (named, self._digest(method, named, line)) + after
        return Message(b" ".join((method, named, rest)))

    def _origin(self, host: str, scheme: str) -> bytes:
        return replace(self.url, target="").at(host, with_credentials=False, scheme=scheme).encode()

    def _digest(self, method: bytes, uri: bytes, line: bytes) -> bytes:
        """The answer to a question for the password; ``line`` says what else it is made of."""
        said = {name: quoted or bare for name, quoted, bare in _SAID.findall(line)}
        nonce, cnonce, qop = (said.get(name, b"") for name in (b"nonce", b"cnonce", b"qop"))
        secret = _md5(self.url.user.encode(), said.get(b"realm", b""), self.url.password.encode())
        if said.get(b"algorithm", b"").lower() == b"md5-sess":
            secret = _md5(secret, nonce, cnonce)
        counted = (said.get(b"nc", b""), cnonce, qop) if qop else ()
        return _md5(secret, nonce, *counted, _md5(method, uri))


def _md5(*parts: bytes) -> bytes:
    """As servers want it of a digest; FFmpeg knows no other."""
    return hashlib.md5(b":".join(parts), usedforsecurity=False).hexdigest().encode()
