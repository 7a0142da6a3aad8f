"""The file of streams that begin with the service (``--streams``): YAML, ``streams:`` with a list of orders.

Each is what ``POST /v1/streams`` takes, with a name of its own: by that a stream is known when the file is read anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from stmixer.service.errors import StartError
from stmixer.service.schemas import PullOrder
from stmixer.service.wire import Wire


class StreamsFile(Wire):
    """What stands in it."""

    streams: tuple[PullOrder, ...] = Field(max_length=1000)


def read_streams(path: Path) -> dict[str, PullOrder]:
    """The orders by their names. Raises StartError, whose words repeat no value of the file: passwords are in it."""
    try:
        stands_there = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _unusable(path, "this is no YAML" if mark is None else f"line {mark.line + 1}: this is no YAML") from None
    except (ValueError, AttributeError, TypeError, RecursionError):  # of values that are not what their tag says
        raise _unusable(path, "this is no YAML") from None
    try:
        found = StreamsFile.model_validate(stands_there)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _unusable(path, f"{'.'.join(map(_place, first['loc'])) or 'file'}: {first['msg']}") from None
    orders: dict[str, PullOrder] = {}
    for number, order in enumerate(found.streams):
        if order.name is None:
            raise _unusable(path, f"streams.{number}: each stream of the file has a name")
        if order.name in orders:
            raise _unusable(path, f"streams.{number}: the name stands there twice")
        orders[order.name] = order
    return orders


def _place(part: int | str) -> str:
    """Of a place in the file; a key that is none of ours may be anything, an address with a password too."""
    return str(part) if isinstance(part, int) or re.fullmatch(r"[a-z_]{1,40}", part) else "?"


def _unusable(path: Path, why: str) -> StartError:
    return StartError("bad_streams", f"--streams {path}: {why}")
