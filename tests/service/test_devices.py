"""Cameras of this machine: which may be opened, and what a decoder in its cell makes of one, of a stand-in's driver.

The stand-in (``video_driver.c``) answers what FFmpeg's own V4L2 demuxer asks of a descriptor, once seccomp has let the
question through: capabilities, input, format, rate, buffers that are mapped, queued and filled, and an unplugged
device. So that demuxer, the cell around it, the pictures' way to the model, and coming back are tried. A kernel's
driver is not: pictures are YUYV of one size, in memory already, at 30 a second; none is MJPEG or H.264, damaged, late,
or in a driver's own memory, and a device that is busy is only explained. ``test_a_real_device`` runs where there is
one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import av
import pytest
from cameras import pulled, says, told
from conftest import TESTS
from in_process import running_engine
from posting import conserved
from pydantic import ValidationError
from ws_client import numbered

from stmixer.media.device import CameraDevice, explain_device
from stmixer.service.decoder import seccomp
from stmixer.service.errors import InputError
from stmixer.service.pulled_url import parse_url
from stmixer.service.settings import Settings
from stmixer.service.sources import device, nursery
from stmixer.service.sources.device import check_device, open_device
from stmixer.service.sources.trouble import Trouble

BUFFERS, APART = 4, 320 * 240 * 2 + 2048
"""As ``video_driver.c`` has it: bytes from one picture to the next are whole pages."""


# -- which may be opened


def test_only_named_devices_are_read() -> None:
    check_device("/dev/video0", ("/dev/video0", "/dev/video2"))
    for path, named, says_so in (
        ("/dev/video1", ("/dev/video0",), "not among those of --allow-devices"),
        ("/dev/video00", ("/dev/video0",), "not among those of --allow-devices"),
        ("/dev/./video0", ("/dev/video0",), "not among those of --allow-devices"),
        ("/dev/video0", (), "where the service was started with --allow-devices"),
    ):
        with pytest.raises(InputError, match=says_so) as refused:
            check_device(path, named)
        assert (refused.value.code, refused.value.status) == ("device_not_allowed", 422)


def test_what_is_no_video_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for path, code in (
        ("/dev/null", "no_video"), (str(tmp_path / "film"), "no_video"), (str(tmp_path), "unreachable"),
        ("/dev/stmixer", "unreachable"),
    ):  # fmt: skip
        with pytest.raises(Trouble) as trouble:
            open_device(path)
        assert trouble.value.reason == code, path
    assert len(os.listdir("/proc/self/fd")) == before


def test_devices_are_named_by_their_paths() -> None:
    assert Settings(allow_devices=" /dev/video0, /dev/v4l/by-id/usb-cam ").devices == (
        "/dev/video0", "/dev/v4l/by-id/usb-cam",
    )  # fmt: skip
    assert Settings().devices == ()
    for listed in ("video0", "/dev/../etc/passwd", "/tmp/video0", "/dev/video0,1"):
        with pytest.raises(ValidationError, match="is no device"):
            Settings(allow_devices=listed)


def test_the_address_of_a_device() -> None:
    url = parse_url("device:/dev/v4l/by-id/usb%20cam")
    assert (url.scheme, url.target, str(url)) == ("device", "/dev/v4l/by-id/usb cam", "device:/dev/v4l/by-id/usb cam")
    assert parse_url("device:///dev/video0").target == "/dev/video0"
    for wrong in ("device:video0", "device://host/dev/video0", "device:/dev/video0?x=1", "device:"):
        with pytest.raises(InputError) as refused:
            parse_url(wrong)
        assert refused.value.code == "bad_url"


@pytest.mark.parametrize(
    ("number", "opening", "code"),
    [(errno.EBUSY, True, "bad_answer"), (errno.ENOTTY, True, "no_video"), (errno.ENODEV, False, "connection_lost"),
     (errno.EPERM, True, "bad_answer"), (None, True, "no_frames")],
)  # fmt: skip
def test_what_is_wrong_with_a_device_is_said(number: int | None, opening: bool, code: str) -> None:
    error = None if number is None else OSError(number, os.strerror(number))
    said = explain_device(CameraDevice("/dev/video0"), error, opening=opening)
    assert said.code == code
    assert str(said).startswith("/dev/video0 ")


# -- what a driver may be asked


SIZES = """
#include <linux/videodev2.h>
#include <stdio.h>
int main(void)
{
    unsigned long asked[] = {
        VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT, VIDIOC_G_FMT, VIDIOC_S_FMT, VIDIOC_REQBUFS, VIDIOC_QUERYBUF, VIDIOC_QBUF,
        VIDIOC_DQBUF, VIDIOC_STREAMON, VIDIOC_STREAMOFF, VIDIOC_G_PARM, VIDIOC_S_PARM, VIDIOC_G_STD, VIDIOC_S_STD,
        VIDIOC_ENUMSTD, VIDIOC_ENUMINPUT, VIDIOC_G_INPUT, VIDIOC_S_INPUT, VIDIOC_ENUM_FRAMESIZES,
        VIDIOC_ENUM_FRAMEINTERVALS};
    for (unsigned n = 0; n < sizeof asked / sizeof *asked; n++)
        printf("%lu\\n", asked[n] & 0xFFFFFFFF);
}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    """C's, with the kernel's headers; skips where there is none."""
    if struct.calcsize("P") != 8 or not Path("/usr/include/linux/videodev2.h").exists():
        pytest.skip("the kernel's headers for 64 bits are missing: apt-get install linux-libc-dev")
    found = shutil.which("cc")
    if found is None:
        pytest.skip("a C compiler is missing: apt-get install gcc")
    return found


def test_questions_have_the_kernels_numbers(compiler: str, tmp_path: Path) -> None:
    (tmp_path / "sizes.c").write_text(SIZES)
    subprocess.run([compiler, "-o", tmp_path / "sizes", tmp_path / "sizes.c"], check=True)
    said = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout
    assert list(seccomp._VIDEO) == [int(line) for line in said.split()]


# -- one that is read


@pytest.fixture(scope="module")
def driver(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that answers in the kernel's place."""
    library = tmp_path_factory.mktemp("driver") / "driver.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, TESTS / "video_driver.c"], check=True)
    return library


def pictures() -> bytes:
    """Those that the stand-in shows in turns, numbered."""
    found = []
    for number in range(BUFFERS):
        frame = av.VideoFrame.from_ndarray(numbered(number + 1), format="rgb24").reformat(format="yuyv422")
        found.append(bytes(frame.planes[0]).ljust(APART, b"\0"))
    return b"".join(found)


def test_a_device_is_read_until_it_is_unplugged_and_again(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "ONE_THREAD", {**nursery.ONE_THREAD, "LD_PRELOAD": str(driver)})
    asked: list[str] = []

    def opened(path: str) -> int:
        asked.append(path)
        memory = os.memfd_create("device", os.MFD_CLOEXEC)
        os.write(memory, pictures())
        return memory

    monkeypatch.setattr(device, "open_device", opened)

    async def run() -> None:
        async with running_engine() as engine:
            async with pulled(engine, "device:/dev/video0", devices=("/dev/video0",)) as stream:
                live = await says(stream, "status", state="live")
                await says(stream, "result", seq=1)
                lost = await says(stream, "status", state="reconnecting", after=live.number)
                said = told(stream)
                assert (said.code, said.codec) == ("connection_lost", "rawvideo")
                assert said.error == "/dev/video0 gives no more pictures; was it unplugged?"
                assert said.frame is not None
                assert (said.frame.width, said.frame.height) == (320, 240)
                await says(stream, "status", state="live", after=lost.number)
                seen = {number for window in engine.worker.seen[stream.id].values() for number in window}
                assert seen <= set(range(1, BUFFERS + 1))
                assert len(seen) > 1
            assert asked == ["/dev/video0"] * len(asked)
            assert len(asked) >= 2
            assert not engine.pool._busy
            conserved(stream.session.summary().model_dump())

    asyncio.run(run())


def test_a_driver_that_takes_its_time_has_one_thread_and_none_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    at_it, may_go_on = threading.Event(), threading.Event()
    given: list[int] = []

    def slow(path: str) -> int:
        if path != "/dev/slow":
            raise Trouble("unreachable", "there is none")
        at_it.set()
        assert may_go_on.wait(60)
        given.append(os.memfd_create("device", os.MFD_CLOEXEC))
        return given[-1]

    monkeypatch.setattr(device, "open_device", slow)

    async def run() -> None:
        async def others() -> str:
            with pytest.raises(Trouble) as trouble:
                await device._opened("/dev/other")
            return str(trouble.value)

        first = asyncio.create_task(device._opened("/dev/slow"))
        await asyncio.to_thread(at_it.wait, 60)
        for _ in range(3):
            with pytest.raises(Trouble, match="/dev/slow is being opened already"):
                await device._opened("/dev/slow")
        assert sum(thread.name == "device" for thread in threading.enumerate()) == 1
        assert await others() == "there is none"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        may_go_on.set()
        async with asyncio.timeout(60):
            while "/dev/slow" in device._opening or not _is_closed(given[0]):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        again = await device._opened("/dev/slow")
        assert again == given[1]
        os.close(again)

    asyncio.run(run())


def test_a_device_that_is_opened_as_its_stream_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            """As soon as it is opened, before whoever asked has a turn."""
            if asking._fut_waiter.done():  # type: ignore[attr-defined]
                asking.cancel()
            else:
                loop.call_soon(end)

        def opened(_: str) -> int:
            given.append(os.memfd_create("device", os.MFD_CLOEXEC))
            loop.call_soon_threadsafe(end)
            return given[0]

        monkeypatch.setattr(device, "open_device", opened)
        asking = asyncio.create_task(device._opened("/dev/video0"))
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert _is_closed(given[0])

    asyncio.run(run())


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def test_a_device_without_a_driver_is_no_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "open_device", lambda _: os.memfd_create("device", os.MFD_CLOEXEC))

    async def run() -> None:
        async with (
            running_engine() as engine,
            pulled(engine, "device:/dev/video0", devices=("/dev/video0",)) as stream,
        ):
            await says(stream, "status", state="connecting")
            assert told(stream).code == "no_video"
            assert "/dev/video0 is no camera" in str(told(stream).error)

    asyncio.run(run())


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="this machine has no camera (/dev/video0)")
def test_a_real_device() -> None:
    async def run() -> None:
        async with (
            running_engine() as engine,
            pulled(engine, "device:/dev/video0", devices=("/dev/video0",)) as stream,
        ):
            await says(stream, "status", state="live")

    asyncio.run(run())
