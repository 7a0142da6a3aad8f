"""H.264 videos of a size, made of the repository's clip: a short one encoded, its packets over and over."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av

from bench.gpu.scene import TESTS

FPS = 15
SOURCE = TESTS / "clips" / "walk.mp4"


def make_film(path: Path, width: int, height: int, round_s: float, rounds: int = 1) -> int:
    """``rounds`` times ``round_s`` seconds at ``FPS``, as MP4; how many frames that are. No frame is encoded twice."""
    count = round(round_s * FPS)
    with av.open(str(SOURCE)) as given:
        pictures = [
            frame.reformat(width, height, format="yuv420p") for frame in itertools.islice(given.decode(video=0), count)
        ]
    to_and_fro = itertools.cycle([*pictures, *pictures[-2:0:-1]])
    with av.open(str(path), "w", format="mp4") as made:
        stream = made.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # no B-frames, as cameras; each round begins with a frame that stands for itself
        stream.options = {"preset": "veryfast", "bf": "0", "g": str(2 * FPS), "tune": "zerolatency"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        packets = []
        for number, picture in enumerate(itertools.islice(to_and_fro, count)):
            frame = av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        told = [(bytes(packet), packet.pts, packet.is_keyframe) for packet in packets]
        for number, (data, pts, is_key) in itertools.product(range(rounds), told):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            packet.pts = packet.dts = pts + number * count
            packet.is_keyframe = is_key
            made.mux(packet)
    return count * rounds
