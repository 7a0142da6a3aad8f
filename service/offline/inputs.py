"""What ``stmixer detect`` is given, as the videos and pictures that it means."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from stmixer.service.errors import InputError
from stmixer.service.pulled_url import parse_url

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset(
    {
        ".3gp", ".asf", ".avi", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg",
        ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip
"""Endings that a folder is searched for. A file that is named may have any."""
LISTS = frozenset({".txt", ".lst"})

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Input:
    """One video or picture.

    Attributes:
        name: what it is called in results: as it was given, or from the given folder on; an address without user and
            password, a camera's without what it is asked for besides.
        kind: ``video`` and ``picture`` lie at ``place``, a path; a ``url`` is to be fetched from there; a ``camera`` is
            a device of this machine at a path, or an RTSP address.
    """

    name: str
    kind: Literal["video", "picture", "url", "camera"]
    place: str = field(repr=False)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.place)

    @property
    def file_name(self) -> str:
        """Its last part, for files of results."""
        if self.kind == "url":
            return PurePosixPath(unquote(urlsplit(self.place).path)).name or "video"
        if not self.place.startswith("/") and self.kind == "camera":
            return PurePosixPath(urlsplit(self.name).path).name or "camera"
        return self.path.name


def inputs_of(given: Sequence[str]) -> list[Input]:
    """Files, folders (searched to the bottom), patterns (``clips/*.mp4``), lists (``.txt``, a line each) and URLs; or a
    camera: ``0`` and so on for this machine's webcams, ``rtsp://...``.

    In the order given, a folder's in that of their names, each once.

    Raises:
        InputError: ``not_found`` for what is not there or holds nothing, ``unsupported_source`` for an address of
            another kind, ``bad_url`` for a camera's that cannot be read, ``bad_option`` for a camera among others.
    """
    found: dict[tuple[str, str], Input] = {}
    for item in (one for text in given for one in _meant(text, lists=True)):
        where = item.place if item.kind == "url" else os.path.realpath(item.place)
        found.setdefault((item.kind, where), item)
    items = list(found.values())
    if len(items) > 1 and (cameras := [item for item in items if item.kind == "camera"]):
        raise InputError(
            "bad_option",
            f"{cameras[0].name} is looked at until it is ended, and alone; `stmixer serve --streams` has many cameras",
        )
    return items


def _meant(text: str, *, lists: bool) -> Iterator[Input]:
    path = Path(text)
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1].lower() in ("http", "https"):
        yield Input(re.sub(r"//[^/?#]*@", "//", text), "url", text)
    elif scheme is not None and scheme[1].lower() == "rtsp":
        yield Input(str(parse_url(text)), "camera", text)
    elif _is_camera(path):
        yield Input(text, "camera", str(path.absolute()))
    elif scheme is not None:
        raise InputError(
            "unsupported_source",
            f"{re.sub('//.*@', '//', text)}: `detect` reads files, http(s) addresses, webcams and rtsp:// cameras",
        )
    elif path.is_dir():
        yield from _of_folder(path)
    elif path.is_file() and path.suffix.lower() in LISTS and lists:
        yield from _of_list(path)
    elif path.exists():
        yield _of_file(text, path)
    elif glob.has_magic(text):
        names = sorted(glob.glob(text, recursive=True))
        if not names:
            raise InputError("not_found", f"{text}: no file is called so")
        for name in names:
            yield from _meant(name, lists=False)
    elif text.isdecimal() and _is_camera(device := Path(f"/dev/video{int(text)}")):
        yield Input(text, "camera", str(device))
    elif text.isdecimal():
        raise InputError(
            "not_found",
            f"{text}: there is no such file, and no webcam /dev/video{int(text)} (into a container it has to "
            "be passed); a browser's webcam is shown by `stmixer serve`, on its page",
        )
    else:
        raise InputError("not_found", f"{text} does not exist")


def _is_camera(path: Path) -> bool:
    return path.is_char_device() and path.name.startswith("video")


def _of_file(name: str, path: Path) -> Input:
    return Input(name, "picture" if path.suffix.lower() in PICTURES else "video", str(path))


def _of_folder(folder: Path) -> Iterator[Input]:
    """Its videos and pictures; what begins with a dot is left out."""
    found = False
    for path in _visible(folder):
        if path.suffix.lower() in PICTURES | VIDEOS:
            found = True
            yield _of_file(str(path), path)
    if not found:
        raise InputError("not_found", f"{folder} is a folder without videos or pictures")


def _visible(folder: Path) -> Iterable[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _of_list(path: Path) -> Iterator[Input]:
    """Paths in a list start at its folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("not_found", f"{path} is no list of files in UTF-8 ({error})") from None
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not named:
        raise InputError("not_found", f"{path} lists nothing")
    for line in named:
        yield from _meant(line if _SCHEME.match(line) else str(path.parent / line), lists=False)
