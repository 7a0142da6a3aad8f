"""What a file is that is not the weights it is taken for, from its first bytes. Nothing in it is unpacked or run."""

from __future__ import annotations

import zipfile
from pathlib import Path

_HEAD = 4096
_SHOWN = 3
"""Names of a zip archive's files that are told."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a pointer that Git LFS leaves, not the file; run `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first (gunzip)"),
    (b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!\x1a", "a RAR archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"GGUF", "a GGUF file, of a language model"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
)
_BEHIND_FOUR: tuple[tuple[bytes, str], ...] = ((b"ftyp", "a video (MP4)"), (b"TFL3", "a TensorFlow Lite model"))
_ZIP = b"PK\x03\x04"


def described(path: Path) -> str | None:
    """What the file is, to stand after "it is"; None where that is not known, or it is one of PyTorch's.

    Raises OSError for a file that cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "empty (0 bytes)"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    for behind, kind in _BEHIND_FOUR:
        if head.startswith(behind, 4):
            return kind
    if head.startswith(_ZIP):
        return _zip_kind(path)
    if int.from_bytes(head[:8], "little") < 1 << 27 and head[8:9] == b"{":
        return "a safetensors file, under another name"
    if not head.strip(b"\x00"):
        return f"{path.stat().st_size:,} bytes that begin with nothing but zeros: a download that was cut off"
    return _text_kind(head)


def _zip_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile:
        return f"cut off: {path.stat().st_size:,} bytes of a zip archive without its end; download it again"
    except (NotImplementedError, ValueError):
        return None
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return None
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"a zip archive of {', '.join(names[:_SHOWN]) or 'nothing'}{more}; unpack it first"


def _text_kind(head: bytes) -> str | None:
    """Of pages and other text."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<") and b"<html" in start):
        return "a web page (a sign-in or an error?), not the file; download it again"
    if start.startswith(b"<?xml"):
        return "XML (a storage service's error?), not the file; download it again"
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    if not all(char.isprintable() or char in "\t\r\n" for char in text):
        return None
    if start.startswith((b"{", b"[")):
        return "JSON (a service's answer?), not the file"
    return f"text: {' '.join(text.split())[:40]!r}"
