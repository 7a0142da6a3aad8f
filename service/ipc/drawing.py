"""Keyframes on their way to be drawn: a line of JSON each in a nameless file, whose descriptor a decoder is given.

A long video has more of them than a message may hold, and than the API process should.
"""

from __future__ import annotations

from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from stmixer.service.ipc.messages import DrawnKeyframe, MessageError

MAX_LINE = 4 * 2**20
"""Bytes of one keyframe."""
_KEYFRAME: TypeAdapter[DrawnKeyframe] = TypeAdapter(DrawnKeyframe)


def keyframe_line(keyframe: DrawnKeyframe) -> bytes:
    """One, as the file has it."""
    return _KEYFRAME.dump_json(keyframe) + b"\n"


def read_keyframes(file: BinaryIO) -> list[DrawnKeyframe]:
    """All of them, from the file's beginning. Raises MessageError for what is none."""
    file.seek(0)
    found = []
    while line := file.readline(MAX_LINE + 1):
        try:
            found.append(_KEYFRAME.validate_json(line if len(line) <= MAX_LINE else b"", strict=True))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise MessageError(f"keyframe {len(found)} to be drawn: {first['msg']}") from None
    return found
