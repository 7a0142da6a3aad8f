"""Who takes requests, told within a process: by Serve's router to the replica that it is in.

A module of its own: Serve sends the router's class as code, and a name of its module would be another one there.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[frozenset[str]], object] | None = None


def listen(listener: Callable[[frozenset[str]], object]) -> None:
    """Be told, from another thread, of the replicas that take requests, whenever they are others. One of a process."""
    global _listener
    _listener = listener


def tell(names: frozenset[str]) -> None:
    """These take requests now."""
    if _listener is not None:
        _listener(names)
