"""Signs of life in Ray's store, of replicas that the coordinator does not answer.

Where the coordinator is gone for a moment nobody gives a replica's streams to others, but the replica cannot know that
from silence. So it leaves a sign where the coordinator looks before it takes a silent replica for gone, and fetches on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from ray.experimental import internal_kv

from stmixer.service.cluster.orders import NAMESPACE, PROTOCOL


def leave_sign(app: str, name: str) -> None:
    """Say that this replica is there. Blocks; raises where the store does not answer."""
    internal_kv._internal_kv_put(_key(app, name), secrets.token_bytes(8), namespace=NAMESPACE.encode())


def read_sign(app: str, name: str) -> bytes | None:
    """The last one of a replica; None where there is none. Blocks."""
    sign: bytes | None = internal_kv._internal_kv_get(_key(app, name), namespace=NAMESPACE.encode())
    return sign


def drop_sign(app: str, name: str) -> None:
    """Forget it. Blocks."""
    internal_kv._internal_kv_del(_key(app, name), namespace=NAMESPACE.encode())


def signed(app: str) -> tuple[str, ...]:
    """The replicas of which one is there. Blocks."""
    prefix = _key(app, "")
    keys: list[bytes] = internal_kv._internal_kv_list(prefix, namespace=NAMESPACE.encode())
    names = [key.decode().removeprefix(prefix) for key in keys]
    return tuple(name for name in names if ":" not in name)  # another application's name may begin with ours


def _key(app: str, name: str) -> str:
    return f"sign {PROTOCOL} of {app}: {name}"


class Signs:
    """Which of the silent replicas have left another sign. ``read`` and ``drop`` take a replica's name. Of those in
    ``there`` the one that is there says nothing: they may have left it long ago. Blocks."""

    def __init__(
        self, read: Callable[[str], bytes | None], drop: Callable[[str], None], there: Iterable[str] = ()
    ) -> None:
        self._read, self._drop = read, drop
        self._seen: dict[str, bytes] = {}
        self.look(there)

    def look(self, silent: Iterable[str]) -> tuple[str, ...]:
        """Those of them that have left one since the last look. Blocks."""
        found = {name: sign for name in silent if (sign := self._read(name)) is not None}
        new = tuple(name for name, sign in found.items() if sign != self._seen.get(name))
        self._seen.update(found)
        return new

    def clear(self, name: str, *, known: bool = True) -> None:
        """It speaks for itself again, or is gone; ``known``: only where a sign of it was seen. Blocks then."""
        if self._seen.pop(name, None) is not None or not known:
            self._drop(name)
