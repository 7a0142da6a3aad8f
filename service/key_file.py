"""Keys with scopes and limits, kept as hashes in one file that its owner alone may write.

A key is 256 random bits, so one SHA-256 is enough: there is nothing to guess, and finding a key by its hash tells a
clock nothing about it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stmixer.service.errors import StartError

Scope = Literal["detect", "stream", "admin"]
PREFIX = "stm_"


def now_utc() -> datetime:
    """The wall clock's moment."""
    return datetime.now(UTC)


class Key(BaseModel):
    """One key as it is kept: never the key itself. A limit that is null is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w.@-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...]
    streams: int | None = Field(8, ge=0, description="streams and uploads at a time")
    requests_per_minute: int | None = Field(600, ge=1)
    megabytes_per_minute: int | None = Field(4096, ge=1)
    keyframes_per_minute: int | None = Field(None, ge=1)
    capacity_percent: int | None = Field(None, ge=1, le=100, description="of the capacity, all its streams together")
    created: AwareDatetime | None = Field(None, description="of files before there was one: unknown")
    expires: AwareDatetime | None = Field(None, description="from then on it opens nothing")

    def is_over(self, now: datetime) -> bool:
        """Whether its time has passed."""
        return self.expires is not None and now >= self.expires


class KeyFile(BaseModel):
    """The file: keys with names of their own."""

    model_config = ConfigDict(extra="forbid")

    keys: tuple[Key, ...] = ()


def new_secret() -> str:
    """A key to be shown once."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """Raises StartError for a file that cannot be used."""
    try:
        _only_its_owner_writes(path)
        found = KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StartError("bad_keys", f"--keys {path}: {error.strerror}; make one with `stmixer keys add`") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise StartError("bad_keys", f"--keys {path}: {where}: {first['msg']}") from None
    for what, values in (("name", [k.name for k in found.keys]), ("key", [k.sha256 for k in found.keys])):
        if len(set(values)) < len(values):
            raise StartError("bad_keys", f"--keys {path}: the same {what} stands there twice")
    return found


def _only_its_owner_writes(path: Path) -> None:
    """Who may write the file, or put another in its place, has every key. Raises StartError, OSError."""
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartError(
            "bad_keys", f"--keys {path}: others may write it (mode {stat.S_IMODE(mode):04o}): chmod go-w {path}"
        )
    folder = path.absolute().parent
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        why = f"others may write its folder (mode {stat.S_IMODE(mode):04o}): chmod o-w {folder}"
        raise StartError("bad_keys", f"--keys {path}: {why}")


def write_keys(path: Path, keys: KeyFile) -> None:
    """Replace the file in one step that a loss of power does not undo. Raises OSError.

    Owner, group and mode stay as they were, so that a service of another user still reads it; a new file is readable
    by its owner alone.
    """
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            _be_like(path, file.fileno())
            file.write(keys.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    with _folder(path) as folder:
        os.fsync(folder)


def _be_like(path: Path, descriptor: int) -> None:
    """Give a new file owner, group and mode of the one at ``path``, if there is one. Raises OSError."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    now = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Around a change of the file: whoever else wants to change it waits. Raises OSError where its folder is none."""
    with _folder(path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)  # the file itself is another one after each change
        yield


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)
