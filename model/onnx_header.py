"""What an ONNX file of ``model.export`` says of itself, read without its graph. Imports no torch and no onnx."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_METADATA_PROPS = 14
"""Of ModelProto (onnx.proto): a repeated message of a key (1) and a value (2)."""
_VARINT, _I64, _LENGTH, _I32 = 0, 1, 2, 5
"""Wire types of protobuf."""
_FIXED = {_I64: 8, _I32: 4}


def read_metadata(path: Path) -> dict[str, str]:
    """The file's ``metadata_props``. Raises OSError, and ValueError for what is no ONNX file."""
    found: dict[str, str] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            field, wire = _tag(file)
            if wire == _VARINT:
                _varint(file)
            elif wire in _FIXED:
                file.seek(_FIXED[wire], 1)
            elif wire == _LENGTH and field == _METADATA_PROPS:
                length = _length(file, size)
                key, value = _entry(file, file.tell() + length)
                found[key] = value
            elif wire == _LENGTH:
                file.seek(_length(file, size), 1)
            else:
                raise ValueError("not an ONNX file")
        if file.tell() != size:
            raise ValueError("the file is cut off")
    return found


def _entry(file: BinaryIO, end: int) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    while file.tell() < end:
        field, wire = _tag(file)
        if wire != _LENGTH:
            raise ValueError("not an ONNX file")
        parts[field] = file.read(_length(file, end)).decode()
    return parts[1], parts[2]


def _tag(file: BinaryIO) -> tuple[int, int]:
    value = _varint(file)
    return value >> 3, value & 7


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file is cut off")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not an ONNX file")


def _length(file: BinaryIO, end: int) -> int:
    """Of what follows, which must end where its surroundings do or before."""
    length = _varint(file)
    if file.tell() + length > end:
        raise ValueError("the file is cut off")
    return length
