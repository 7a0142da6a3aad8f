"""A request's video body, raw or multipart, into an anonymous file: bounded, and gone with its descriptor."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import BinaryIO, cast

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from stmixer.service.access import Caller
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.uploads")


@asynccontextmanager
async def received_file(request: Request, settings: Settings, caller: Caller) -> AsyncIterator[BinaryIO]:
    """The body's video as an open file at position 0. Raises InputError, CapacityError; ClientDisconnect passes."""
    limit = settings.max_upload_mb * 2**20
    if int(request.headers.get("content-length") or 0) > limit + 2**16:
        raise _too_large(settings)
    chunks = _limited(request, settings, limit, caller)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with _multipart(request, chunks) as file:
            yield file
        return
    with tempfile.TemporaryFile(prefix="stmixer-", buffering=0) as unbuffered:
        file = cast(BinaryIO, unbuffered)
        with _storage_errors():
            async for chunk in chunks:
                await asyncio.to_thread(_write, file, chunk)
        yield _checked(file)


def _write(file: BinaryIO, chunk: bytes) -> None:
    """All of it; an unbuffered file takes what still fits, and says why it does not take the rest."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except ClientDisconnect:
        raise
    except OSError as error:
        log.error("an upload cannot be stored: %s", error)
        raise CapacityError("storage", "there is no room to store this upload; try again later") from None


@asynccontextmanager
async def _multipart(request: Request, chunks: AsyncIterator[bytes]) -> AsyncIterator[BinaryIO]:
    try:
        with _storage_errors():
            form = await MultiPartParser(request.headers, _as_generator(chunks), max_files=1, max_fields=16).parse()
    except MultiPartException as error:
        raise InputError("bad_multipart", f"the multipart body cannot be read: {error.message}", 400) from None
    try:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise InputError("bad_multipart", "the multipart body needs the video in a part named 'file'", 400)
        spooled = cast(tempfile.SpooledTemporaryFile[bytes], part.file)
        with _storage_errors():
            spooled.rollover()  # a decoder needs a descriptor
            spooled.flush()
        yield _checked(cast(BinaryIO, spooled))
    finally:
        await form.close()


def _checked(file: BinaryIO) -> BinaryIO:
    if file.seek(0, 2) == 0:
        raise InputError("unreadable", "the body is empty: send a video file", 400)
    file.seek(0)
    return file


async def _as_generator(chunks: AsyncIterator[bytes]):  # type: ignore[no-untyped-def]
    async for chunk in chunks:
        yield chunk


async def _limited(request: Request, settings: Settings, limit: int, caller: Caller) -> AsyncIterator[bytes]:
    """The body, ended with an error when it is too large or stands still."""
    stream, total = request.stream(), 0
    while True:
        try:
            async with asyncio.timeout(settings.upload_idle_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            seconds = settings.upload_idle_s
            raise InputError("upload_stalled", f"no byte came for {seconds:g} s; send the video again", 408) from None
        total += len(chunk)
        if total > limit + 2**16:
            raise _too_large(settings)
        caller.spend_bytes(len(chunk))
        yield chunk


def _too_large(settings: Settings) -> InputError:
    return InputError(
        "too_large", f"the body is over {settings.max_upload_mb} MiB; cut the video or lower its resolution", 413
    )
