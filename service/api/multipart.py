"""A form as it comes in (RFC 7578, RFC 2046): the part ``file`` to disk, small fields beside it as text.

A route may want one more part that is no small field (``beside``).

Taken besides what browsers send: a part ``file`` without a filename, or with ``filename*`` alone; text before the first
boundary. Everything else is named: an unfinished body, a part in base64, a file under another name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stmixer.service.errors import InputError

FILE = "file"
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_PREAMBLE_BYTES = 64 * 1024
_AS_IT_IS = ("", "binary", "8bit", "7bit")


@dataclass
class _Part:
    """The part that is being read; ``data`` of a field, and of a file only until its headers are over."""

    name: str = ""
    is_file: bool = False
    is_beside: bool = False
    disposition: bytes = b""
    encoding: str = ""
    data: bytes = b""


class FormReader:
    """``feed`` gets the body, in any pieces, and returns what came of the file; ``fields`` grows meanwhile.

    ``content_type``: the request's header. ``beside``: the name of a part that may be large as well; what came of it
    is had with ``take_beside``. Everything raises InputError ``bad_multipart``.
    """

    def __init__(self, content_type: str, beside: str | None = None) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _bad("its Content-Type names no boundary")
        self.fields: dict[str, str] = {}
        self._bare_line = b"--" + boundary + b"\n"
        self._first = re.compile(rb"(?:\A|\n)(--" + re.escape(boundary) + rb")(?=[ \t]*\r\n|--)")
        self._before = b""
        self._begun = self._ended = self._found = False
        self._part, self._header = _Part(), (b"", b"")
        self._file: list[bytes] = []
        self._wants_beside, self._has_beside = beside, False
        self._beside: list[bytes] = []
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._on_part, "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value, "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers, "on_part_data": self._on_data,
            "on_part_end": self._on_part_end, "on_end": self._on_end,
        }  # fmt: skip
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _bad(str(error)) from None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The next piece of the body; what it holds of the file's bytes."""
        if not self._begun:
            chunk = self._without_preamble(chunk)
        if chunk and not self._ended:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise _bad(f"it is no multipart body: {error}") from None
        found, self._file = self._file, []
        return found

    def take_beside(self) -> bytes:
        """What the pieces fed so far held of the part beside, once."""
        found, self._beside = self._beside, []
        return b"".join(found)

    def finish(self) -> None:
        """The body is over: whether it was whole, and had a file and what it needs beside."""
        if not self._begun:
            raise self._not_begun()
        if not self._ended:
            raise _bad("it breaks off before its last boundary; send it again")
        if not self._found:
            there = f"; there is {', '.join(map(repr, self.fields))}" if self.fields else ""
            raise _bad(f"it needs the video in a part named '{FILE}'{there}")
        if self._wants_beside is not None and not self._has_beside:
            raise _bad(f"it needs a part named {self._wants_beside!r} besides the video")

    def _without_preamble(self, chunk: bytes) -> bytes:
        """What stands before the first boundary, a line of its own, is for people, and left out."""
        self._before += chunk
        found = self._first.search(self._before)
        before = self._before if found is None else self._before[: found.start(1)]
        if len(before) > MAX_PREAMBLE_BYTES or (found is not None and self._bare_line in before):
            raise self._not_begun()
        if found is None:
            return b""
        self._begun = True
        begun, self._before = found[1] + self._before[found.end(1) :].lstrip(b" \t"), b""
        return begun

    def _not_begun(self) -> Exception:
        if self._bare_line in self._before:
            return _bad("its lines end in LF; those of a multipart body end in CR LF")
        return _bad("it is no multipart body: its boundary is not in it")

    # -- what the parser says

    def _on_part(self) -> None:
        self._part = _Part()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header(self) -> None:
        (name, value), self._header = self._header, (b"", b"")
        match name.lower():
            case b"content-disposition":
                self._part.disposition = value
            case b"content-transfer-encoding":
                self._part.encoding = value.decode("latin-1").strip().lower()

    def _on_headers(self) -> None:
        part = self._part
        options = parse_options_header(part.disposition)[1]
        if b"name" not in options:
            raise _bad("a part's Content-Disposition has no name")
        part.name = options[b"name"].decode(errors="replace")[:100]
        if part.encoding not in _AS_IT_IS:
            raise _bad(f"the part {part.name!r} is in {part.encoding[:40]!r}; send its bytes as they are")
        part.is_file = part.name == FILE
        part.is_beside = part.name == self._wants_beside
        if part.is_beside:
            if self._has_beside:
                raise _bad(f"the part {part.name!r} is there twice")
            self._has_beside = True
            return
        if not part.is_file and (b"filename" in options or b"filename*" in part.disposition.lower()):
            raise _bad(f"the video has to be in a part named '{FILE}', and no other files beside it: {part.name!r}")
        if part.is_file and self._found:
            raise _bad(f"there are several files named '{FILE}'; send one")
        self._found |= part.is_file
        if not part.is_file and len(self.fields) == MAX_FIELDS:
            raise _bad(f"it has more than {MAX_FIELDS} fields")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_file:
            self._file.append(data[start:end])
        elif part.is_beside:
            self._beside.append(data[start:end])
        elif len(part.data) + end - start > MAX_FIELD_BYTES:
            raise _bad(f"the field {part.name!r} has more than {MAX_FIELD_BYTES} bytes; the video goes into '{FILE}'")
        else:
            part.data += data[start:end]

    def _on_part_end(self) -> None:
        part = self._part
        if part.is_file or part.is_beside:
            return
        if part.name in self.fields:
            raise _bad(f"the field {part.name!r} is there twice")
        try:
            self.fields[part.name] = part.data.decode().strip()
        except UnicodeDecodeError:
            raise _bad(f"the field {part.name!r} is no text in UTF-8") from None

    def _on_end(self) -> None:
        self._ended = True


def _bad(why: str) -> InputError:
    return InputError("bad_multipart", f"the multipart body cannot be read: {why}", 400)
