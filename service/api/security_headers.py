"""What every answer tells browsers, whichever route or status it is: one table, put on outside of everything else.

That includes 500s, refused WebSockets, and what the HTTP parser says before any route is known
(``service.api.connections``).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TABLE = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; "
        b"style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(self), microphone=(), geolocation=()",
    b"cache-control": b"no-store",
}
UNDER_TLS = {b"strict-transport-security": b"max-age=31536000"}
"""Only where we speak TLS ourselves: of the sites that a proxy serves we know nothing."""


def security_headers(*, tls: bool) -> dict[bytes, bytes]:
    """The table for one connection."""
    return {**TABLE, **UNDER_TLS} if tls else TABLE


class SecurityHeaders:
    """Around an application: its answers get the table; what one says itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        table = security_headers(tls=scope["scheme"] in ("https", "wss"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                said = [*message.get("headers", ())]
                names = {name.lower() for name, _ in said}
                message["headers"] = [*said, *(item for item in table.items() if item[0] not in names)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
