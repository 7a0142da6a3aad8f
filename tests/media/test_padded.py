"""MPEG-TS in packets of 192 and 204 bytes, as AVCHD cameras and broadcasts have it: all that is done for plain ones."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from live_video import piece

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.media.padded import PlainPackets, padding_of
from stmixer.media.takeover import PACKET

SIZES = (192, 204)
HALF = 75
Shown = list[tuple[int, int]]


def padded(plain: bytes, size: int) -> bytes:
    """Bytes that look like packets' beginnings too: four before each, or 16 behind."""
    chance = random.Random(size)
    packets = [plain[at : at + PACKET] for at in range(0, len(plain), PACKET)]
    if size == 192:
        return b"".join(chance.choice([b"\0\1\2\3", b"GGGG"]) + packet for packet in packets)
    return b"".join(packet + chance.choice([bytes(16), 16 * b"G"]) for packet in packets)


class Pipe:
    """What a live sender's bytes come through."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._most))


def shown(reader: VideoReader) -> Shown:
    """Time in ms and number of each picture."""
    return [(frame.pts_us // 1000, round(float(frame.rgb().mean())) - 40) for frame in reader]


def are_all(found: Shown) -> None:
    assert [ms for ms, _ in found] == [40 * n for n in range(2 * HALF)]
    assert [number for _, number in found] == pytest.approx(list(range(2 * HALF)), abs=4)


@pytest.fixture(scope="module")
def two() -> dict[str, bytes]:
    """Two recordings behind each other."""
    first = piece(0, HALF)
    return {
        "another PID": first + piece(HALF, HALF, pid=0x200),
        "another codec": first + piece(HALF, HALF, "libx265"),
        "the same": first + piece(HALF, HALF),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["another PID", "another codec", "the same"])
def test_files_put_behind_each_other_are_read_to_the_end(
    two: dict[str, bytes], kind: str, size: int, tmp_path: Path
) -> None:
    """`cat 00001.MTS 00002.MTS`."""
    (tmp_path / "x.m2ts").write_bytes(padded(two[kind], size))
    with VideoReader(tmp_path / "x.m2ts", limits=Limits()) as reader:
        are_all(shown(reader))
    told = [] if kind == "the same" else ["times that another video took over: 1; it was read from there on"]
    assert reader.warnings == told
    assert reader.dropped == {}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [100, 1 << 16])
def test_a_live_one_is_followed(two: dict[str, bytes], size: int, most: int) -> None:
    told: list[tuple[str, str]] = []
    data = Pipe(padded(two["another PID"], size), most)
    with VideoReader(  # type: ignore[arg-type]
        data, limits=Limits(), low_latency=True, on_warning=lambda *words: told.append(words)
    ) as reader:
        are_all(shown(reader))
    assert told == [("takeover", "another video takes over (H.264, PID 512); it is read from here on")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("begin", [1, 77, 190, 5000])
def test_a_live_one_may_be_joined_anywhere(size: int, begin: int) -> None:
    data = padded(piece(0, 60), size)
    with VideoReader(Pipe(data[begin:], 1000), limits=Limits(), low_latency=True) as reader:  # type: ignore[arg-type]
        found = shown(reader)
    assert found[-1][1] == pytest.approx(59, abs=1)
    assert len(found) >= 30


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 7, 191, 1000, 1 << 20])
def test_packets_are_what_they_were(size: int, most: int) -> None:
    """Whole ones, in whatever pieces they come; where some are missing or more than packets came, all behind that."""
    plain = piece(0, 3)
    data = padded(plain, size)
    found = padding_of(data[: 5 * PACKET])
    assert found == (4 if size == 192 else 0, size)
    at, _ = found
    assert everything(data[at:], size, most) == plain
    packet = 9 * size
    torn = data[at:packet] + data[packet + 50 :]
    kept = everything(torn, size, most)
    assert kept.startswith(plain[: 7 * PACKET])
    assert kept.endswith(plain[12 * PACKET :])
    assert len(kept) % PACKET == 0
    assert padding_of(plain[: 5 * PACKET]) is None
    assert padding_of(bytes(1000)) is None
    assert padding_of(data[:100]) is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 191, 1 << 20])
def test_a_packet_is_lost_only_with_its_own_beginning(size: int, most: int) -> None:
    """One byte is damaged; whoever stands before and behind it is kept. Of two such behind each other, what follows."""
    plain = piece(0, 30)
    packets = [plain[at : at + PACKET] for at in range(0, len(plain), PACKET)]
    whole = padded(plain, size)[4 if size == 192 else 0 :]

    def kept(*damaged: int) -> bytes:
        data = bytearray(whole)
        for number in damaged:
            data[number * size] = 0
        return everything(bytes(data), size, most)

    for damaged in ([7], [7, 9, 11], [len(packets) - 2], [len(packets) - 1]):
        assert kept(*damaged) == b"".join(packet for number, packet in enumerate(packets) if number not in damaged)
    two = kept(7, 8)
    assert two.startswith(plain[: 7 * PACKET])
    assert two.endswith(plain[12 * PACKET :])


def everything(data: bytes, size: int, most: int) -> bytes:
    """What comes of it."""
    packets, found = PlainPackets(Pipe(data, most).read, b"", size), b""
    while more := packets.read(999):
        found += more
    return found
