"""Live MPEG-TS in which another video takes over, or whose tables are late: nothing is lost without a word."""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest
from live_video import OPTIONS, picture, piece

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.media.takeover import PACKET, TransportWatch, _crc, _payload, from_tables_on

HALF = 75
KINDS: dict[str, tuple[str, str, int | None, str]] = {
    "another PID": ("libx264", "libx264", 0x200, "H.264, PID 512"),
    "another codec, the same PID": ("libx264", "libx265", None, "H.265, PID 256"),
    "another codec and PID": ("libx264", "libx265", 0x234, "H.265, PID 564"),
    "an older codec": ("libx264", "mpeg2video", None, "MPEG-2, PID 256"),
}


class Pipe:
    """Gives what there is, in pieces, and cannot be sought."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file, self._most, self.given = io.BytesIO(data), most, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._most))
        self.given += len(data)
        return data


def read(data: bytes, most: int = 1000) -> tuple[list[tuple[int, int]], VideoReader, list[tuple[str, str]]]:
    """Time in ms and number of each picture; the reader; what was told meanwhile."""
    told: list[tuple[str, str]] = []
    with VideoReader(  # type: ignore[arg-type]
        Pipe(data, most), limits=Limits(), low_latency=True, on_warning=lambda *words: told.append(words)
    ) as reader:
        found = [(frame.pts_us // 1000, round(float(frame.rgb().mean())) - 40) for frame in reader]
    return found, reader, told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [100, 1000, 1 << 16])
def test_another_video_is_followed_and_told(kind: str, most: int) -> None:
    before, after, pid, name = KINDS[kind]
    found, reader, told = read(piece(0, HALF, before) + piece(HALF, HALF, after, pid), most)
    assert [ms for ms, _ in found] == [40 * n for n in range(2 * HALF)]
    assert [number for _, number in found] == pytest.approx(list(range(2 * HALF)), abs=4)
    assert told == [("takeover", f"another video takes over ({name}); it is read from here on")]
    assert reader.warnings == ["times that another video took over: 1; it was read from there on"]
    assert reader.dropped == {}


def test_there_and_back_and_in_between_sound_alone_changes_nothing() -> None:
    parts = [piece(30 * n, 30, pid=0x200 + n % 2) for n in range(4)]
    found, _, told = read(b"".join(parts))
    assert [ms for ms, _ in found] == [40 * n for n in range(120)]
    assert [text.partition("PID ")[2][:3] for _, text in told] == ["513", "512", "513"]
    same, _, quiet = read(piece(0, HALF) + piece(HALF, HALF))
    assert (len(same), quiet) == (2 * HALF, [])


def test_one_of_two_videos_that_stops_gives_way_to_the_other() -> None:
    """The tables name both all the time."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as output:
        tracks = []
        for _ in range(2):
            track = output.add_stream("libx264", rate=25)
            track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", dict(OPTIONS["libx264"])
            track.codec_context.gop_size = 10
            tracks.append(track)
        for number in range(200):
            output.mux(tracks[number >= 20].encode(picture(number)))
    found, _, told = read(target.getvalue())
    numbers = [number for _, number in found]
    assert numbers[:20] == pytest.approx(list(range(20)), abs=4)
    assert numbers[-1] == pytest.approx(199, abs=4)
    assert len(numbers) >= 20 + 40  # after 5 s, which are 125 pictures, from the next keyframe on
    assert [code for code, _ in told] == ["other_videos", "takeover"]
    assert [ms for ms, _ in found][-1] == 199 * 40


def without_tables(data: bytes, until: int) -> bytes:
    """Whose first tables come after so many bytes."""
    packets = [data[at : at + PACKET] for at in range(0, len(data), PACKET)]
    pids = [(packet[1] & 0x1F) << 8 | packet[2] for packet in packets]
    return b"".join(
        p
        for n, (p, pid) in enumerate(zip(packets, pids, strict=True))
        if n * PACKET >= until or (pid >= 256 and pid != 0x1000)
    )


def noise(codec: str, pictures: int) -> bytes:
    """25 a second, of 80 KiB and more each."""
    target, chance = io.BytesIO(), np.random.default_rng(1)
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.bit_rate = 320, 240, "yuv420p", 8_000_000
        track.options = dict(OPTIONS[codec])
        track.codec_context.gop_size = 12
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(chance.integers(0, 256, (240, 320, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


@pytest.mark.parametrize("joined", [0, 77, 1000])
def test_tables_are_waited_for(joined: int) -> None:
    """However much comes before them; it cannot be decoded."""
    data = noise("mpeg2video", 60)
    late = without_tables(data, len(data) // 2)
    assert len(data) // 2 > 4 * 65536  # more than FFmpeg looks through
    found, _, _ = read(late[joined:])
    assert 15 <= len(found) <= 30


def test_without_tables_what_ffmpeg_guesses_is_read() -> None:
    """All of it, and beginning after 2 MiB of a stream that goes on."""
    short = piece(0, HALF)
    assert [ms for ms, _ in read(without_tables(short, len(short)))[0]] == [40 * n for n in range(HALF)]
    data = noise("libx264", 90)
    pipe = Pipe(without_tables(data, len(data)), 5000)
    with VideoReader(pipe, limits=Limits(), low_latency=True) as reader:  # type: ignore[arg-type]
        assert 2 << 20 <= pipe.given <= (2 << 20) + 40_000
        assert len(data) > pipe.given + 500_000
        assert [frame.pts_us for frame in reader] == [40_000 * n for n in range(90)]


def test_where_nothing_can_be_guessed_tables_are_waited_for_longer() -> None:
    data = noise("libx264", 90)
    late = without_tables(data, len(data) * 2 // 3)
    assert len(late) * 2 // 3 > 2 << 20
    found, reader, told = read(late[len(late) // 20 :], 5000)
    assert [ms for ms, _ in found] == [40 * n for n in range(len(found))]
    assert 90 // 3 - 12 <= len(found) <= 90 // 3
    assert (told, reader.info.codec) == ([], "h264")


def test_a_keyframe_is_waited_for() -> None:
    """Over more pictures than may fail in a row later on."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", dict(OPTIONS["libx264"])
        track.codec_context.gop_size = 400
        for number in range(410):
            output.mux(track.encode(picture(number)))
        output.mux(track.encode(None))
    data = target.getvalue()
    found, _, _ = read(data[len(data) // 40 // PACKET * PACKET :])
    assert len(found) >= 10


def test_programmes_of_any_kind_begin_a_stream() -> None:
    """Of types that are not known here too, which FFmpeg may know."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream("mp2", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152 * 2), np.int16), format="s16", layout="stereo")
        sound.sample_rate = 48000
        output.mux(track.encode(sound))
        output.mux(track.encode(None))
    data = target.getvalue()
    assert data
    assert from_tables_on(io.BytesIO(data + data).read).startswith(b"\x47\x40\x00")


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_comes_breaks_the_watch(seed: int) -> None:
    """Bytes changed, cut out, doubled: it finds something or not."""
    chance = random.Random(seed)
    data = bytearray(piece(0, 10) + piece(10, 10, pid=0x200))
    for _ in range(chance.randint(1, 400)):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.choice([1, 50, 188])]
            case 2:
                data[at:at] = data[at : at + 188]
    watch, at = TransportWatch(), 0
    watch.follow(256)
    while at < len(data):
        size = chance.choice([1, 100, 188, 5000])
        if (found := watch.feed(bytes(data[at : at + size]))) is not None:
            assert 0 <= found.kept <= size
            assert found.pid != 256
            break
        at += size


def packets_of(data: bytes) -> list[tuple[int, bytes]]:
    """Its packets, each with its PID."""
    return [((data[at + 1] & 0x1F) << 8 | data[at + 2], data[at : at + PACKET]) for at in range(0, len(data), PACKET)]


def test_before_the_first_picture_too_and_told_of_is_what_is_shown() -> None:
    """Joined where the first keyframe has passed: the old one has no picture at all."""
    first, cut, starts = packets_of(piece(0, 25)), [], 0
    for pid, packet in first:
        starts += pid == 256 and bool(packet[1] & 0x40)
        if pid != 256 or starts > 3:
            cut.append(packet)
    found, reader, told = read(b"".join(cut) + piece(25, 25, "mpeg2video", pid=0x200))
    assert [number for _, number in found] == pytest.approx(list(range(25, 50)), abs=4)
    assert [ms for ms, _ in found] == [40 * n for n in range(25)]
    assert (reader.info.codec, reader.info.width, reader.info.height) == ("mpeg2video", 160, 96)
    assert [code for code, _ in told] == ["takeover"]


@pytest.mark.parametrize("before", [0, 25])
@pytest.mark.parametrize("pictures", [2, 40])
def test_what_has_next_to_nothing_but_tables_is_passed_over(before: int, pictures: int) -> None:
    """An encoder that starts, and starts once more: FFmpeg cannot open what comes between."""
    tables = [packet for pid, packet in packets_of(piece(0, 1, pid=0x300)) if pid in (0, 0x1000)][:2]
    empty = bytes([0x47, 0x43, 0x00, 0x10]) + b"\0\0\1\xe0" + bytes(PACKET - 8)
    parts = [piece(0, before)] if before else []
    found, _, told = read(b"".join([*parts, *tables, *pictures * [empty], piece(before, 25, pid=0x200)]))
    assert [number for _, number in found] == pytest.approx(list(range(before + 25)), abs=4)
    assert [ms for ms, _ in found] == [40 * n for n in range(before + 25)]
    assert told[-1] == ("takeover", "another video takes over (H.264, PID 512); it is read from here on")
    assert len(told) == (2 if before else 1)


def section(kind: int, number: int, body: bytes) -> bytes:
    """A table's, with its CRC."""
    head = bytes([kind, 0xB0, len(body) + 9, number >> 8, number & 0xFF, 0xC1, 0, 0])
    return head + body + _crc(head + body).to_bytes(4, "big")


def packet(pid: int, payload: bytes, starts: bool = True) -> bytes:
    """One of MPEG-TS; ``payload`` up to 184 bytes."""
    return bytes([0x47, starts << 6 | pid >> 8, pid & 0xFF, 0x10]) + payload.ljust(PACKET - 4, b"\xff")


def programmes(*found: tuple[int, int]) -> bytes:
    """The table of programmes by number and PID."""
    return section(0, 1, b"".join(bytes([0, number, 0xE0 | pid >> 8, pid & 0xFF]) for number, pid in found))


def videos(number: int, *found: tuple[int, int]) -> bytes:
    """A programme's table of videos by PID and stream type."""
    listed = (bytes([kind, 0xE0 | pid >> 8, pid & 0xFF, 0xF0, 0]) for pid, kind in found)
    return section(2, number, b"\xe1\x00\xf0\x00" + b"".join(listed))


@pytest.mark.parametrize(("table", "together"), [(0x1100, False), (0x1000, False), (0x1000, True)])
def test_a_programme_beside_it_takes_nothing_over(table: int, together: bool) -> None:
    """Its table has a PID of its own, or the same, and then maybe the same packet."""
    data = bytearray()
    for pid, each in packets_of(piece(0, 2 * HALF)):
        match pid:
            case 0:
                data += packet(0, b"\0" + programmes((1, 0x1000), (2, table)))
            case 0x1000 if together:
                data += packet(0x1000, b"\0" + videos(1, (0x100, 0x1B)) + videos(2, (0x300, 0x1B)))
            case 0x1000:
                data += each + packet(table, b"\0" + videos(2, (0x300, 0x1B)))
            case _:
                data += each
    found, _, told = read(bytes(data))
    assert [number for _, number in found] == pytest.approx(list(range(2 * HALF)), abs=4)
    assert [ms for ms, _ in found] == [40 * n for n in range(2 * HALF)]
    assert [code for code, _ in told] == ["other_videos"]


@pytest.mark.parametrize(("every", "pieces"), [(50, 3), (5, 100)])
@pytest.mark.parametrize("start", [0, (1 << 33) / 90_000 - 3])
def test_a_slow_video_beside_a_fast_one_is_read_on(every: int, pieces: int, start: float) -> None:
    """Slower than that by more than 100 pictures, or pieces of them; also where the clock begins anew."""
    target = io.BytesIO()
    slow = [*range(10), *range(50, 200, every)]
    with av.open(target, "w", format="mpegts", options={"output_ts_offset": str(start)}) as output:
        tracks = []
        for _ in range(2):
            track = output.add_stream("libx264", rate=25)
            track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", dict(OPTIONS["libx264"])
            tracks.append(track)
        for number in range(200):
            for track in tracks if number in slow else tracks[1:]:
                output.mux(track.encode(picture(number)))
    data = bytearray()
    for pid, each in packets_of(target.getvalue()):
        data += each
        if pid == 257 and each[1] & 0x40:
            data += (pieces - 1) * packet(pid, _payload(each)[:14])
    found, _, told = read(bytes(data))
    assert [number for _, number in found] == pytest.approx(slow, abs=4)
    assert [ms for ms, _ in found] == [40 * number for number in slow]
    assert [code for code, _ in told] == ["other_videos"]


@pytest.mark.parametrize("shared", [False, True])
def test_tables_over_two_packets_begin_with_their_first(shared: bool) -> None:
    """Those of programmes and of one; the packet where one ends may begin the next."""
    listed = section(0, 1, b"".join(bytes([0, number, 0xF0, number]) for number in range(10, 60)) + b"\0\1\xf0\0")
    sounds = [(0x800 + number, 0x0F) for number in range(35)]

    def two(pid: int, table: bytes) -> bytes:
        again = b"\0" + table
        first, rest = again[: PACKET - 4], again[PACKET - 4 :]
        if shared:
            rest = bytes([len(rest)]) + rest + table[:20]
        return packet(pid, first) + packet(pid, rest, starts=shared)

    parts = []
    for first, video in ((0, 0x100), (25, 0x200)):
        for pid, each in packets_of(piece(first, 25, pid=video)):
            match pid:
                case 0:
                    parts.append(two(0, listed))
                case 0x1000:
                    parts.append(two(0x1000, videos(1, (video, 0x1B), *sounds)))
                case _:
                    parts.append(each)
    data = b"".join(parts)
    pids = [pid for pid, _ in packets_of(from_tables_on(Pipe(packet(0x11, b"") + data, 1000).read))]
    assert [pid for pid in pids if pid != 0x11][:4] == [0, 0, 0x1000, 0x1000]
    found, _, told = read(data)
    assert [number for _, number in found] == pytest.approx(list(range(50)), abs=4)
    assert [ms for ms, _ in found] == [40 * n for n in range(50)]
    assert told == [("takeover", "another video takes over (H.264, PID 512); it is read from here on")]
