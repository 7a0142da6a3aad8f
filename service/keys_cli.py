"""``stmixer keys``: make, list and take away the keys that ``stmixer serve --keys FILE`` asks for."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import ValidationError

from stmixer.service.errors import InputError, StartError
from stmixer.service.key_file import Key, KeyFile, Scope, alone, digest, new_secret, now_utc, read_keys, write_keys

app = typer.Typer(no_args_is_help=True, help="Keys of a service: made here, shown once, kept as hashes.")

File = Annotated[Path, typer.Option("--keys", help="the file that `stmixer serve --keys` reads")]
DEFAULTS = {name: field.default for name, field in Key.model_fields.items()}


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    keys: File,
    scope: Annotated[
        list[str], typer.Option(help="detect: post clips; stream: cameras; admin: /metrics. Repeat for more")
    ] = ["detect", "stream"],  # noqa: B006
    streams: Annotated[int, typer.Option(help="streams and uploads at a time")] = DEFAULTS["streams"],
    requests: Annotated[int, typer.Option(help="requests a minute")] = DEFAULTS["requests_per_minute"],
    megabytes: Annotated[int, typer.Option(help="megabytes a minute")] = DEFAULTS["megabytes_per_minute"],
    keyframes: Annotated[int | None, typer.Option(help="keyframes a minute (default: what capacity allows)")] = None,
    share: Annotated[
        int | None, typer.Option(help="percent of the capacity that its streams may take together (default: all)")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="when it ends: in 30d, 12h or 90m, or at 2027-01-31 or 2027-01-31T18:00Z (UTC)")
    ] = None,
) -> None:
    """Make a key and print it, once."""
    if unknown := set(scope) - set(get_args(Scope)):
        raise InputError("bad_option", f"--scope {min(unknown)}: use {', '.join(get_args(Scope))}")
    secret = new_secret()
    try:
        now = now_utc().replace(microsecond=0)
        key = Key.model_validate({
            "name": name, "sha256": digest(secret), "scopes": tuple(dict.fromkeys(scope)), "streams": streams,
            "requests_per_minute": requests, "megabytes_per_minute": megabytes,
            "keyframes_per_minute": keyframes, "capacity_percent": share,
            "created": now, "expires": None if expires is None else _moment(expires, now),
        })  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("bad_option", f"{first['loc'][0]}: {first['msg']}") from None

    def with_it(file: KeyFile) -> KeyFile:
        if any(other.name == name for other in file.keys):
            raise InputError("bad_option", f"there is a key {name!r} already; remove it first")
        return KeyFile(keys=(*file.keys, key))

    _change(keys, with_it)
    print(secret)
    print("Keep it: only its hash is stored.", file=sys.stderr)


@app.command("list")
def list_keys(keys: File) -> None:
    """Names, scopes and limits; since when and until when, where that is known."""
    now = now_utc()
    for key in read_keys(keys).keys:
        limits = f"{key.streams} streams, {key.requests_per_minute} requests and {key.megabytes_per_minute} MB a minute"
        if key.keyframes_per_minute is not None:
            limits += f", {key.keyframes_per_minute} keyframes a minute"
        if key.capacity_percent is not None:
            limits += f", {key.capacity_percent} % of the capacity"
        told = [key.name, ",".join(key.scopes), limits]
        if key.created is not None:
            told.append(f"made {_said(key.created)}")
        if key.expires is not None:
            told.append(f"{'expired' if key.is_over(now) else 'expires'} {_said(key.expires)}")
        print("\t".join(told))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="whose key")], keys: File) -> None:
    """Take a key away; a running service notices, and ends what runs for it."""

    def without_it(file: KeyFile) -> KeyFile:
        kept = tuple(key for key in file.keys if key.name != name)
        if len(kept) == len(file.keys):
            raise InputError("not_found", f"there is no key {name!r} in {keys}")
        return KeyFile(keys=kept)

    _change(keys, without_it)


def _change(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    """Read, change and write the file while nobody else does."""
    try:
        with alone(path):
            write_keys(path, change(read_keys(path) if path.exists() else KeyFile()))
    except OSError as error:
        raise StartError("unwritable", f"{path} cannot be written: {error.strerror or error}") from None


def _moment(text: str, now: datetime) -> datetime:
    """So much from now, or a day or moment in ISO form, UTC where it names no zone. Raises InputError."""
    if found := re.fullmatch(r"(\d{1,6})([dhm])", text):
        names = {"d": "days", "h": "hours", "m": "minutes"}
        ends = now + timedelta(**{names[found[2]]: int(found[1])})
    else:
        try:
            ends = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                "bad_option", f"--expires {text}: say 30d, 12h, 90m, 2027-01-31 or 2027-01-31T18:00Z"
            ) from None
        ends = ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)
    if ends <= now:
        raise InputError("bad_option", f"--expires {text} has passed already")
    return ends


def _said(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
