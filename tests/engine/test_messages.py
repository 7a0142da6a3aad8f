"""What arrives from another process: read as it was sent, or refused by name."""

from __future__ import annotations

import math

import pytest

from stmixer.service.ipc.messages import (
    FROM_DECODER,
    FROM_WORKER,
    TO_DECODER,
    Action,
    Actor,
    BatchDone,
    Frames,
    JpegPicture,
    MessageError,
    Opened,
    PictureWanted,
    RingFull,
    SampleWritten,
    StageSeconds,
    encode,
)

ACTOR = Actor((1.0, 2.0, 3.5, 4.0), (0.1, 0.2, 0.3, 0.4), 0.9, (Action(3, "stand", 0.5),))


@pytest.mark.parametrize(
    ("corridor", "message"),
    [
        (FROM_DECODER, Frames((0, 33_333), (1.5, 1.6), 1)),
        (FROM_DECODER, Opened(640, 480, 341, 256, None)),
        (FROM_DECODER, PictureWanted()),
        (FROM_DECODER, SampleWritten(0, 1, 0, 0)),
        (TO_DECODER, JpegPicture(2**61, -5.0)),
        (FROM_WORKER, BatchDone(7, ((ACTOR,), None, ()), StageSeconds(0.0, 0.1, 0.0), 0)),
    ],
)  # fmt: skip
def test_a_message_arrives_as_it_was_sent(corridor, message) -> None:  # type: ignore[no-untyped-def]
    assert corridor.decode(encode(message)) == message


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b'Frames\n{"pts_us":[5,5],"at":[0,0],"not_sampled":0}', "timestamps that do not rise"),
        (b'Frames\n{"pts_us":[5],"at":[0,0],"not_sampled":0}', "1 timestamps and 2 times of arrival"),
        (encode(Frames((5,), (0.0,), -1)), "Frames.not_sampled"),
        (encode(Frames((-1,), (0.0,), 0)), "Frames.pts_us.0"),
        (encode(Frames((5,), (1e308,), 0)), "Frames.at.0"),
        (encode(Frames((5,), (math.nan,), 0)), "Frames.at.0"),
        (encode(Opened(0, 480, 341, 256, 30.0)), "Opened.width"),
        (encode(Opened(640, 480, 341, 256, 1e9)), "Opened.rate"),
        (encode(RingFull(2**60)), "RingFull.number"),
        (b'RingFull\n{"number":"3"}', "RingFull.number"),
        (b"RingFull\n{}", "RingFull.number"),
        (b"RingFull\nnumber", "Invalid JSON"),
        (b"RingFull", "Invalid JSON"),
        (b"", "there is no message b''"),
        (encode(JpegPicture(0, 0.0)), "there is no message b'JpegPicture'"),
        (b"\xff" * 10_000, "there is no message"),
    ],
)  # fmt: skip
def test_what_a_decoder_may_not_say_is_named(sent: bytes, says: str) -> None:
    with pytest.raises(MessageError, match="from the decoder") as caught:
        FROM_DECODER.decode(sent)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
