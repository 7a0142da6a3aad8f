"""A decoder that breaks the protocol, started in the real one's place: what it has met may have taken it over.

``module_of`` gives the module for one of ``FAULTS``: what it does once it is told to open a source. Then it waits, as a
decoder that has nothing to say would, so that whoever does not notice waits for ever. A module for each, since a
decoder's environment is empty.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stmixer.service.ipc.channel import Channel, ChannelError
from stmixer.service.ipc.messages import (
    TO_DECODER,
    DecoderReady,
    Frames,
    FramesDropped,
    NothingCut,
    Opened,
    Rendered,
    RingFull,
    SampleWritten,
    WorkerBroken,
)

OPENED = Opened(320, 240, 171, 128, 30.0)


def raw(connection: socket.socket, data: bytes) -> None:
    """A message of the right framing with any content."""
    connection.sendall(len(data).to_bytes(4, "little") + (0).to_bytes(4, "little") + data)


def say(*messages: object) -> Callable[[Channel, socket.socket], None]:
    """Messages, each as it should be, in a place where it should not."""

    def act(channel: Channel, _: socket.socket) -> None:
        for message in messages:
            channel.send(message)

    return act


def write(data: bytes) -> Callable[[Channel, socket.socket], None]:
    """No message at all."""
    return lambda _, connection: raw(connection, data)


def over_the_limit(_: Channel, connection: socket.socket) -> None:
    """The head of a message of 4 GB."""
    connection.sendall(b"\xff" * 8)


FAULTS: dict[str, Callable[[Channel, socket.socket], None]] = {
    "frames before opened": say(Frames((0,), (0.0,), 0)),
    "sample before opened": say(SampleWritten(0, 1, 0, 0)),
    "full before opened": say(RingFull(0)),
    "opened twice": say(OPENED, OPENED),
    "an answer about a clip": say(NothingCut("off")),
    "input too large": say(Opened(320, 240, 60_000, 60_000, None)),
    "time goes back": say(OPENED, Frames((100,), (0.0,), 0), Frames((50,), (0.0,), 0)),
    "sample out of turn": say(OPENED, SampleWritten(7, 1, 0, 0)),
    "an answer to another order": say(OPENED, Rendered()),
    "a worker's word": say(WorkerBroken("never mind")),
    "time does not rise": write(b'Frames\n{"pts_us":[5,5],"at":[0.0,0.0],"not_sampled":0}'),
    "counts below nothing": write(b'Frames\n{"pts_us":[],"at":[],"not_sampled":-1}'),
    "a field too many": write(b'RingFull\n{"number":1,"please":true}'),
    "no JSON": write(b"Opened\n\x00\xff"),
    "no message": write(b"\x80\x04pickle"),
    "over the limit": over_the_limit,
    "deep nesting": write(b"Frames\n" + b"[" * 60_000),
    "deep nesting in a field": write(b'FramesDropped\n{"reason":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"),
    "over 64 KiB": write(
        b'SourceEnded\n{"warnings":["' + b"a" * 9_000 + b'","' + b'","'.join([b"b" * 9_000] * 8) + b'"]}'
    ),
    "a payload": lambda _, connection: connection.sendall(
        (10).to_bytes(4, "little") + (1 << 20).to_bytes(4, "little") + b"Flushed\n{}" + bytes(1 << 20)
    ),
}
"""By name: what a decoder says that none may say there."""
PICTURES_FAULTS: dict[str, Callable[[Channel, socket.socket], None]] = {
    "more pictures than it was sent": say(OPENED, Frames((0, 1, 2, 3), (0.0, 0.0, 0.0, 0.0), 0)),
    "drops more than it was sent": say(OPENED, FramesDropped("corrupt", 9, told=False)),
}
"""The same, of a decoder of pictures."""
SILENT_FAULTS: dict[str, Callable[[Channel, socket.socket], None]] = {"no answer": say(), "opens": say(OPENED)}
"""Nothing that it may not say, and nothing else."""


FAULTY = """import faulty_decoder


def prepare():
    pass


def run(connection, memory_bytes):
    faulty_decoder.run({fault!r}, connection)
"""


def module_of(fault: str, folder: Path) -> str:
    """The name of a new module in ``folder``, which has to be on the path, that runs a decoder with this fault."""
    name = "decoder_with_" + "_".join(fault.replace("'", "").split())
    (folder / f"{name}.py").write_text(FAULTY.format(fault=fault))
    return name


def run(fault: str, connection: socket.socket) -> None:
    """A decoder with this fault, as ``service.decoder.process`` has one."""
    channel = Channel(connection, TO_DECODER)
    act: Any = (FAULTS | PICTURES_FAULTS | SILENT_FAULTS)[fault]
    try:
        channel.send(DecoderReady())
        if channel.receive() is not None:
            act(channel, connection)
        while channel.receive() is not None:
            pass
    except ChannelError:
        pass
