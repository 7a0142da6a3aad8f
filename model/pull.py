"""Fetching weights over https into the cache folder: bounded, resumable, named by what they are. Imports no torch.

Nothing in a file is executed. What comes is kept where it is a weights file of ours, which says so of itself, or one of
PyTorch's, which `stmixer-weights convert` reads; anything else is thrown away, and told.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import re
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from stmixer.model.bundled import bundled
from stmixer.model.card import CheckpointError, read_header
from stmixer.model.foreign.file_kind import described
from stmixer.model.pulled import ENDINGS, PulledWeights, is_name, pulled, record_pulled
from stmixer.model.zoo import VARIANTS

MOST_BYTES = 4 << 30
"""Of a file."""
MOST_REDIRECTS = 5
TIMEOUT_S = 30.0
"""Of silence."""
_CHUNK = 1 << 18
_STATUS = {401: "wants a sign-in", 403: "may not be fetched without a sign-in", 404: "is not there", 410: "is gone"}
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int, int | None], None]


class PullError(ValueError):
    """What cannot be fetched, and why, in a line."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A download that was cut off: where from, which version of it, and of how many bytes."""

    url: str
    version: str
    total: int | None


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows a few, to https alone."""

    max_redirections = MOST_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        """The library's hook."""
        if urlsplit(newurl).scheme != "https":
            raise PullError(f"{req.full_url} leads to {newurl}, which is no https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def pull(
    url: str,
    folder: Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    context: ssl.SSLContext | None = None,
    progress: Progress = lambda done, total: None,
) -> PulledWeights:
    """Fetch a file, or find it fetched. What was cut off goes on.

    Args:
        url: https; may end in ``#sha256=...``.
        folder: the cache folder; made where it is missing.
        name: what it is called from then on; default: the file's name without its ending.
        sha256: what it has to be; None where nobody knows.
        context: whom to trust; default: whom the system trusts.
        progress: is told bytes done and in all, None where unknown.

    Raises:
        PullError: it cannot be fetched or is not what it should be; the message says what to do.
    """
    url, wanted = _address(url, sha256)
    name = _name(url, name)
    if (there := pulled(folder).get(name)) is not None:
        if there.source != url:
            raise PullError(f"the name {name} is taken: {there.file} is from {there.source}; give another with --name")
        if wanted not in (None, there.sha256):
            raise PullError(f"{there.file} has the SHA-256 {there.sha256}, not {wanted}; delete it to fetch it anew")
        return there
    partial = folder / f".{name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            _fetch(url, partial, context or ssl.create_default_context(), progress)
            found = _kept(url, name, partial, wanted)
            record_pulled(found)
            return found
    except OSError as error:
        raise PullError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from None


def _address(url: str, sha256: str | None) -> tuple[str, str | None]:
    """The address without its end, and the hash that one of both says. Raises PullError."""
    plain, _, end = url.partition("#")
    parts = urlsplit(plain)
    if parts.scheme != "https" or not parts.hostname:
        raise PullError(f"{url} is no https address; only those are fetched")
    if parts.username is not None or parts.password is not None:
        raise PullError("an address with a user or password in it is not fetched")
    stated = [each.lower() for each in (sha256, end.removeprefix("sha256=") if end else None) if each]
    if any(_SHA256.fullmatch(each) is None for each in stated):
        raise PullError(f"{stated[0]} is no SHA-256: 64 digits of 0 to 9 and a to f")
    if len(set(stated)) > 1:
        raise PullError("the address says another SHA-256 than --sha256")
    return plain, stated[0] if stated else None


def _name(url: str, name: str | None) -> str:
    """Raises PullError."""
    if name is None:
        file = PurePosixPath(unquote(urlsplit(url).path)).name
        name = next((file[: -len(end)] for end in ENDINGS if file.lower().endswith(end)), file)
    if not is_name(name):
        raise PullError(f"{name!r} is no name for weights; give one with --name, of letters, digits, dots and dashes")
    if name in {*bundled(), *VARIANTS}:
        raise PullError(f"{name} is the name of something that is bundled; give another with --name")
    return name


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """One process fetches a name. Raises PullError, OSError."""
    with partial.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PullError(f"{partial.name} is being fetched by another process") from None
        yield


def _fetch(url: str, partial: Path, context: ssl.SSLContext, progress: Progress) -> None:
    """All of it into a file, going on with what is there. Raises PullError, OSError."""
    begun = _begun(partial, url)
    there = partial.stat().st_size if begun is not None else 0
    if begun is not None and begun.total == there:  # whole, only not looked at yet
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "stmixer-weights"}
    if begun is not None and begun.version:
        headers |= {"Range": f"bytes={there}-", "If-Range": begun.version}
    opener = build_opener(ProxyHandler(), HTTPSHandler(context=context), _HttpsRedirects())
    try:
        with opener.open(Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            _store(answer, url, partial, begun, progress)
    except PullError:
        raise
    except HTTPError as error:
        if error.code == 416:  # what is there is not what it goes on with
            _forget(partial)
        status = _STATUS.get(error.code, f"answers with {error.code} {error.reason}")
        raise PullError(f"{url} {status}") from None
    except (URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        said = "nothing came for a while" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
        raise PullError(f"{url} cannot be fetched: {said}{_goes_on(partial, url)}") from None


def _store(answer: Any, url: str, partial: Path, begun: _Begun | None, progress: Progress) -> None:
    """The answer's body behind what is there, or in its place. Raises PullError, OSError."""
    start = _start(answer, url, partial, begun)
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdecimal() else None
    _check_size(url, total, partial)
    if not start:
        _forget(partial)
    version = _version(answer) or (begun.version if begun is not None and start else "")
    state = {"url": url, "version": version, "total": total}
    _state_file(partial).write_text(json.dumps(state), encoding="utf-8")
    done = start
    with partial.open("ab" if start else "wb") as file:
        progress(done, total)
        while chunk := answer.read(_CHUNK):
            done += len(chunk)
            if done > MOST_BYTES:
                file.close()
                _forget(partial)
                raise PullError(f"{url} is larger than {MOST_BYTES >> 30} GiB, the most that is fetched")
            file.write(chunk)
            progress(done, total)
    if total is not None and done < total:
        raise PullError(f"{url} ended at {done:,} of {total:,} bytes{_goes_on(partial, url)}")


def _start(answer: Any, url: str, partial: Path, begun: _Begun | None) -> int:
    """How much of what is there the answer goes on behind, in bytes. Raises PullError where it is the wrong part."""
    if answer.status != 206:
        return 0
    there = partial.stat().st_size if begun is not None else 0
    if begun is None or not (answer.headers.get("Content-Range") or "").startswith(f"bytes {there}-"):
        _forget(partial)
        raise PullError(f"{url} sends another part than was asked for; the same command begins anew")
    if _version(answer) not in ("", begun.version):
        _forget(partial)
        raise PullError(f"{url} sends a part of another version than was begun with; the same command begins anew")
    return there


def _version(answer: Any) -> str:
    """What tells this version from others: an ETag, or when it was changed; nothing where the server does not say."""
    return _strong(answer.headers.get("ETag")) or answer.headers.get("Last-Modified") or ""


def _check_size(url: str, total: int | None, partial: Path) -> None:
    """Raises PullError for more than is fetched, or than there is room for."""
    if total is None:
        return
    if total > MOST_BYTES:
        raise PullError(f"{url} is larger than {MOST_BYTES >> 30} GiB, the most that is fetched")
    free = shutil.disk_usage(partial.parent).free + (partial.stat().st_size if partial.exists() else 0)
    if total > free:
        raise PullError(f"{partial.parent} has {free / 1e6:.0f} MB free, and {total / 1e6:.0f} MB are needed")


def _kept(url: str, name: str, partial: Path, wanted: str | None) -> PulledWeights:
    """The fetched file under its name. Raises PullError where it is not what it should be, OSError."""
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    size, kind = partial.stat().st_size, described(partial)
    try:
        if kind is None and not _is_of_pytorch(partial):
            kind = "neither a safetensors file nor one of PyTorch's"
        if kind is not None and not kind.startswith("a safetensors file"):
            raise PullError(f"{url} gives no weights: what comes is {kind}")
        if wanted not in (None, found):
            raise PullError(f"{url} has the SHA-256 {found}, not {wanted}: it is another file, or was changed")
        if kind is not None:
            read_header(partial)
    except CheckpointError as error:
        _forget(partial)
        raise PullError(f"{url}: {str(error).replace(str(partial), 'it')}") from None
    except PullError:
        _forget(partial)
        raise
    file_name = partial.with_name(f"{name}{'.pth' if kind is None else '.safetensors'}")
    partial.replace(file_name)
    _state_file(partial).unlink(missing_ok=True)
    return PulledWeights(name, file_name, url, found, size)


def _is_of_pytorch(path: Path) -> bool:
    """Whether it begins as a checkpoint does: a zip archive (`described` knows others) or a pickle."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _begun(partial: Path, url: str) -> _Begun | None:
    """What was begun, where some of it is there: of the same address. It can go on where its version is known."""
    try:
        begun = _Begun(**json.loads(_state_file(partial).read_text(encoding="utf-8")))
        return begun if begun.url == url and partial.stat().st_size else None
    except (OSError, ValueError, TypeError):
        return None


def _strong(etag: str | None) -> str | None:
    """A weak one does not tell one byte from another."""
    return None if etag is None or etag.startswith("W/") else etag


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _state_file(partial).unlink(missing_ok=True)


def _goes_on(partial: Path, url: str) -> str:
    begun = _begun(partial, url)
    return "; what came is kept, the same command goes on" if begun is not None and begun.version else ""


def _state_file(partial: Path) -> Path:
    return partial.with_suffix(".state")
