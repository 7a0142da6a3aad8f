"""How a token comes from an element of a page, which sends no header: in a cookie of that one address.

The cookie is the server's own to set and read: no script sees it, no page of another site has it sent, and it goes to
its address alone. Programs of before send the token in the address itself (``?token=``), unless that is refused.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from stmixer.service.access import TOKEN_S
from stmixer.service.errors import AccessError
from stmixer.service.schemas import TOKEN_PATH

COOKIE, OF_TLS = "stmixer-token", "__Secure-"
"""Its name, and what that begins with besides where it came by TLS: browsers then take and send it by TLS alone."""
_PATH, _AT_THE_END = re.compile(TOKEN_PATH), re.compile(f"({TOKEN_PATH})$")


def set_cookie(response: Response, scope: Scope, token: str, place: str) -> None:
    """Have a browser keep a token for as long as it counts. ``place``: as ``TokenOrder.path``."""
    own = place == route_of(place)
    response.set_cookie(
        _name(scope), token, max_age=int(TOKEN_S), path=scope.get("root_path", "") + place if own else place,
        secure=_is_tls(scope), httponly=True, samesite="strict",
    )  # fmt: skip


def route_of(place: str) -> str:
    """The path of a ``TokenOrder`` without a proxy's prefix."""
    found = _AT_THE_END.search(place)
    assert found is not None, "as the order has been checked"
    return found[0]


def token_of(scope: Scope, path: str, *, in_addresses: bool) -> str | None:
    """What stands for the key of a request that has none: at addresses that browsers ask for without a header.

    ``in_addresses``: whether it may stand there. Raises AccessError (401) for one that does and may not.
    """
    headers = dict(scope["headers"])
    if not _PATH.fullmatch(path) or b"authorization" in headers:
        return None
    query: str = scope["query_string"].decode("latin-1")
    given = parse_qs(query).get("token")
    if given is None:
        return cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(_name(scope))
    if in_addresses:
        return given[0]
    raise AccessError(
        "unauthorized", "no token may stand in an address here: POST /v1/tokens with its path sets a cookie", 401
    )


def _name(scope: Scope) -> str:
    return OF_TLS + COOKIE if _is_tls(scope) else COOKIE


def _is_tls(scope: Scope) -> bool:
    return bool(scope["scheme"] == "https")
