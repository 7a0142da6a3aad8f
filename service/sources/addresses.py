"""What may be fetched: which addresses a packet may be sent to.

A name is looked up once; what it stands for is checked, and what was checked is what is connected to, so that a name
which says something else the next moment leads nowhere. Whoever connects does so through ``AddressPolicy.reach``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from stmixer.service.errors import InputError
from stmixer.service.pulled_url import PulledUrl
from stmixer.service.sources.names import Names, Resolve

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NUMERIC = re.compile(r"[0-9][0-9a-fA-FxX.]*")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRefused(Exception):
    """None of a name's addresses may be reached; says which, and what allows them."""


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
            found = ipaddress.ip_address(address.partition("%")[0] if ":" in address else address)
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
        return str(ipaddress.ip_address(host.partition("%")[0] if ":" in host else host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if _NUMERIC.fullmatch(host) else None
    except OSError:
        return None
