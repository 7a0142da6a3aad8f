"""Whose certificates count where a source is reached by TLS: the system's and those of ``--pull-ca-file``, or any."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stmixer.service.errors import StartError
from stmixer.service.pulled_url import PulledUrl
from stmixer.service.sources.trouble import Trouble


@dataclass(frozen=True, slots=True)
class Trust:
    """``ca_file``: certificates, PEM, beside the system's; without ``verify`` nobody's is looked at, and whoever stands
    in between may be who answers."""

    ca_file: Path | None = None
    verify: bool = True

    def context(self, purpose: Literal["rtsps", "https"]) -> ssl.SSLContext:
        """Made once for each; reads files. Raises OSError, ssl.SSLError for a file of which nothing can be read.

        An HTTP client says in its own that it speaks HTTP, which a camera over RTSP may refuse.
        """
        return _context(self, purpose)

    def check(self) -> None:
        """Raises StartError for a file that cannot be used."""
        try:
            self.context("rtsps")
        except (OSError, ssl.SSLError) as error:
            why = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise StartError("bad_setting", f"--pull-ca-file {self.ca_file}: {why}") from None


@functools.cache
def _context(trust: Trust, _: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs time of the loop, as often as a camera likes
    if trust.ca_file is not None:
        context.load_verify_locations(trust.ca_file)
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def not_secured(url: PulledUrl, error: ssl.SSLError) -> Trouble:
    """What a failed handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble("tls", f"{url.place} cannot be trusted ({error.verify_message})")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):  # one that just starts does this
        return Trouble("connection_lost", f"{url.place} ends the connection where TLS is to begin")
    return Trouble("tls", f"{url.place} does not come to terms on TLS ({error.reason or error})")
