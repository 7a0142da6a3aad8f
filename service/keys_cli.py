"""``stmixer keys``: make, list and take away the keys that ``stmixer serve --keys FILE`` asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import ValidationError

from stmixer.service.access import Key, KeyFile, Scope, digest, new_secret, read_keys, write_keys
from stmixer.service.errors import InputError, StartError

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
) -> None:
    """Make a key and print it, once."""
    file = read_keys(keys) if keys.exists() else KeyFile()
    if any(key.name == name for key in file.keys):
        raise InputError("bad_option", f"there is a key {name!r} already; remove it first")
    if unknown := set(scope) - set(get_args(Scope)):
        raise InputError("bad_option", f"--scope {min(unknown)}: use {', '.join(get_args(Scope))}")
    secret = new_secret()
    try:
        key = Key.model_validate({
            "name": name, "sha256": digest(secret), "scopes": tuple(dict.fromkeys(scope)), "streams": streams,
            "requests_per_minute": requests, "megabytes_per_minute": megabytes,
        })  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("bad_option", f"{first['loc'][0]}: {first['msg']}") from None
    _write(keys, KeyFile(keys=(*file.keys, key)))
    print(secret)
    print("Keep it: only its hash is stored.", file=sys.stderr)


@app.command("list")
def list_keys(keys: File) -> None:
    """Names, scopes and limits."""
    for key in read_keys(keys).keys:
        limits = f"{key.streams} streams, {key.requests_per_minute} requests and {key.megabytes_per_minute} MB a minute"
        print(f"{key.name}\t{','.join(key.scopes)}\t{limits}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="whose key")], keys: File) -> None:
    """Take a key away; a running service notices."""
    file = read_keys(keys)
    kept = tuple(key for key in file.keys if key.name != name)
    if len(kept) == len(file.keys):
        raise InputError("not_found", f"there is no key {name!r} in {keys}")
    _write(keys, KeyFile(keys=kept))


def _write(path: Path, keys: KeyFile) -> None:
    try:
        write_keys(path, keys)
    except OSError as error:
        raise StartError("unwritable", f"{path} cannot be written: {error.strerror or error}") from None
