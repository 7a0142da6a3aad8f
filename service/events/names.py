"""By what streams and their rules are known, over restarts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamName:
    """Whose stream, and what it is called. ``owner``: the SHA-256 of the key's secret, empty where there is none."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class RuleOfStream:
    """A rule by its id, in one stream."""

    stream: StreamName
    rule: str
