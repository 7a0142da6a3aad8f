"""A source's address as users give it, in parts: what of it is shown, and what is not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from stmixer.service.errors import InputError

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Schemes that lead to other machines, and where to when nothing is said."""
FILE, DEVICE = "file", "device"
LONGEST_URL = 2000
LONGEST_SENT = 8000
"""Characters of a URL with user and password in ``%`` form, as a decoder is told of it."""
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class PulledUrl:
    """A source's address in parts. ``host``: a name or an address, without brackets; ``target``: path and query, as
    they were given, or a file's or device's path. ``user``, ``password`` are in no text that anybody gets to see."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """For people and logs: without credentials, and without the query, which may hold some."""
        path, query, _ = self.target.partition("?")
        if self.scheme in (FILE, DEVICE):
            return f"{self.scheme}:{self.target}"
        return f"{self.scheme}://{self.place}{path}{query and '?…'}"

    @property
    def place(self) -> str:
        """Host, and port where that is not the scheme's own, as they stand in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS.get(self.scheme) else f"{host}:{self.port}"

    def at(self, address: str, *, with_credentials: bool, scheme: str | None = None) -> str:
        """The URL with a literal address in place of the name; ``scheme``: another one."""
        host = f"[{address}]" if ":" in address else address
        credentials = ""
        if with_credentials and (self.user or self.password):
            credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
        return f"{scheme or self.scheme}://{credentials}{host}:{self.port}{self.target}"


def parse_url(text: str) -> PulledUrl:
    """Parts of what a user gave. Raises InputError ``bad_url``, whose words repeat nothing of it but its scheme."""
    if len(text) > LONGEST_URL or _CONTROL.search(text):
        raise _bad(f"at most {LONGEST_URL} characters, without spaces and control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad("its host or port cannot be read") from None
    scheme = parts.scheme.lower()
    if scheme == FILE:
        if parts.netloc not in ("", "localhost"):
            raise _bad("a file is file:///path, or file:name below the folder of --allow-files")
        return PulledUrl(FILE, "", 0, unquote(parts.path))
    if scheme == DEVICE:
        if parts.netloc or not parts.path.startswith("/") or parts.query:
            raise _bad("a device is device:/dev/video0, as --allow-devices names it")
        return PulledUrl(DEVICE, "", 0, unquote(parts.path))
    if scheme not in PORTS:
        known = ", ".join((*PORTS, FILE, DEVICE))
        raise _bad(f"scheme {scheme[:20]!r} is not taken, {known} are" if scheme.isalnum() else f"one of {known}")
    if not host:
        raise _bad("it names no host")
    if "@" in parts.path + parts.query + parts.fragment:
        # else half of a password with a / in it would be taken for host and path, and shown
        raise _bad("an @ stands behind its host: in a password / is %2F and @ is %40, in a path @ is %40")
    host = _in_ascii(host)
    if "%" in host and ":" not in host:  # a zone is of IPv6
        raise _bad("its host is no name")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    url = PulledUrl(scheme, host, PORTS[scheme] if port is None else port, target, user, password)
    if len(url.at(url.host, with_credentials=True)) > LONGEST_SENT:
        raise _bad("user and password are too long")
    return url


def _in_ascii(host: str) -> str:
    """A name as it is looked up and told. Raises InputError for what is none."""
    if host.isascii():
        return host
    try:
        named = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _bad("its host is no name") from None
    if not named or _CONTROL.search(named):
        raise _bad("its host is no name")
    return named


def _bad(what: str) -> InputError:
    return InputError("bad_url", f"url: {what}", 422)
