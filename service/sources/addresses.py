"""What may be fetched: addresses as users give them, and which of them a packet may be sent to.

A name is looked up once; what it stands for is checked, and what was checked is what is connected to, so that a name
which says something else the next moment leads nowhere. Whoever connects does so through ``AddressPolicy.reach``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from stmixer.service.errors import InputError
from stmixer.service.sources.names import Names, Resolve

PORTS = {"rtsp": 554, "http": 80, "https": 443}
"""Schemes that lead to other machines, and where to when nothing is said."""
FILE = "file"
LONGEST_URL = 2000
LONGEST_SENT = 8000
"""Characters of a URL with user and password in ``%`` form, as a decoder is told of it."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NUMERIC = re.compile(r"[0-9][0-9a-fA-FxX.]*")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRefused(Exception):
    """None of a name's addresses may be reached; says which, and what allows them."""


@dataclass(frozen=True, slots=True)
class PulledUrl:
    """A source's address in parts. ``host``: a name or an address, without brackets; ``target``: path and query, as
    they were given, or a file's path. ``user``, ``password`` are in no text that anybody gets to see."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """For people and logs: without credentials, and without the query, which may hold some."""
        path, query, _ = self.target.partition("?")
        if self.scheme == FILE:
            return f"file:{self.target}"
        return f"{self.scheme}://{self.place}{path}{query and '?…'}"

    @property
    def place(self) -> str:
        """Host, and port where that is not the scheme's own, as they stand in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS.get(self.scheme) else f"{host}:{self.port}"

    def at(self, address: str, *, with_credentials: bool) -> str:
        """The URL with a literal address in place of the name."""
        host = f"[{address}]" if ":" in address else address
        credentials = ""
        if with_credentials and (self.user or self.password):
            credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
        return f"{self.scheme}://{credentials}{host}:{self.port}{self.target}"


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
    if scheme not in PORTS:
        known = ", ".join((*PORTS, FILE))
        raise _bad(f"scheme {scheme[:20]!r} is not taken, {known} are" if scheme.isalnum() else f"one of {known}")
    if not host:
        raise _bad("it names no host")
    if parts.username and "@" in parts.path + parts.query + parts.fragment:
        # else half of a password with a / in it would be taken for host and path, and shown
        raise _bad("an @ stands behind its host: in a password / is %2F and @ is %40, in a path @ is %40")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    url = PulledUrl(scheme, _in_ascii(host), PORTS[scheme] if port is None else port, target, user, password)
    if len(url.at(url.host, with_credentials=True)) > LONGEST_SENT:
        raise _bad("user and password are too long")
    return url


def parse_networks(listed: str) -> tuple[Network, ...]:
    """Networks and addresses, with commas. Raises ValueError for what is neither."""
    return tuple(ipaddress.ip_network(name) for part in listed.split(",") if (name := part.strip()))


class AddressPolicy:
    """Which addresses may be reached: public ones, and those of ``networks``."""

    def __init__(self, networks: Sequence[Network], resolve: Resolve | None = None) -> None:
        """``resolve``: who looks names up; the system, for nobody in particular, by default."""
        self._networks = tuple(networks)
        self._resolve = resolve or Names().of(None)

    def allows(self, address: str) -> bool:
        """Whether a packet may be sent to a literal address."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        inner = _inner(found)
        if any(inner in network for network in self._networks if network.version == inner.version):
            return True
        if found in _NAT64:  # a translator makes it the other
            return _is_public(inner)
        return all(_is_public(one) for one in {found, inner})

    async def reach(self, host: str, port: int) -> tuple[str, ...]:
        """Literal addresses of a host that may be connected to. Raises AddressRefused, OSError where it has none."""
        literal = _literal(host)
        if literal is None:
            found = await self._resolve(host, port)
        else:  # nobody has to be asked; with a zone it means what it spells
            found = [host if "%" in host else literal]
        allowed = tuple(dict.fromkeys(address for address in found if self.allows(address)))
        if not allowed:
            which = "leads to private addresses alone" if literal is None else "is a private address"
            raise AddressRefused(f"{host} {which}, which --allow-networks does not name")
        return allowed

    def check_literal(self, url: PulledUrl) -> None:
        """Say at once of an address that needs no lookup that it is not allowed. Raises InputError."""
        literal = _literal(url.host)
        if literal is not None and not self.allows(literal):
            raise InputError(
                "address_refused", f"{url.host} is a private address: start the service with --allow-networks", 422
            )


def _inner(address: IpAddress) -> IpAddress:
    """The IPv4 address that one of IPv6 stands for, by whatever way packets get there; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, long given up
        return ipaddress.IPv4Address(int(address))
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def _is_public(address: IpAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address.ipv4_mapped is not None):
        return address.ipv4_mapped is not None and _is_public(address.ipv4_mapped)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _literal(host: str) -> str | None:
    """The address that a host spells, in whatever way systems read one (127.1, 0x7f000001, 2130706433); else None."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if _NUMERIC.fullmatch(host) else None
    except OSError:
        return None


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
