"""Events posted to an address of the operator's: a POST each, signed, taken where it is answered with 2xx."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from stmixer.service.errors import StartError
from stmixer.service.events.delivery import Refusal
from stmixer.service.events.spool import ReceiverName, Waiting

SIGNATURE = "X-Stmixer-Signature"
CONNECT_S, ANSWER_S, TRY_S = 5.0, 10.0, 15.0
"""How long connecting, an answer's next bytes, and a whole try may take."""
for _name in ("httpx", "httpcore"):  # they would tell the whole address, which is a secret of its own
    logging.getLogger(_name).setLevel(logging.WARNING)


def signature(secret: bytes, at_s: int, body: str) -> str:
    """The header of a message that is sent at epoch seconds ``at_s``."""
    digest = hmac.new(secret, f"{at_s}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def read_secret(path: Path, option: str, advice: str = "") -> bytes:
    """What stands in the file of an option, without the line's end. Raises StartError (``bad_secret``)."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise StartError("bad_secret", f"{option} {path}: {error.strerror}") from None
    if not secret:
        raise StartError("bad_secret", f"{option} {path}: it is empty{advice}")
    return secret


class Webhook:
    """A receiver. ``secret`` None: unsigned. ``calendar``: epoch s."""

    name: ReceiverName = "webhook"
    tells_outages = False

    def __init__(self, url: str, secret: bytes | None, calendar: Callable[[], float] = time.time) -> None:
        self._url, self._secret, self._calendar = url, secret, calendar
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Nothing more is sent."""
        await self._client.aclose()

    async def give_up(self, message: Waiting) -> None:
        """Nothing comes of it."""

    async def send(self, message: Waiting) -> Refusal | None:
        """None where it was taken; else why not."""
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, int(self._calendar()), message.body)
        try:
            async with (
                asyncio.timeout(TRY_S),
                self._client.stream("POST", self._url, content=message.body, headers=headers) as answer,
            ):
                return None if answer.is_success else Refusal(f"it answers {answer.status_code}")
        except TimeoutError:
            return Refusal(f"no answer within {TRY_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Refusal(type(error).__name__, not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))
