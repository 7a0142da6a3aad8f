"""Pictures to be looked at: frames of rings with people drawn upon them, one after the other, as JPEGs."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stmixer.media.annotated import banner, drawn
from stmixer.media.draw import draw_actors
from stmixer.media.encode import encode_jpeg
from stmixer.service.ipc.channel import Channel, Received
from stmixer.service.ipc.messages import DrawPicture, PictureDrawn, PictureGone
from stmixer.service.ipc.ring import Ring, RingShape


def draw_pictures(channel: Channel, received: Received | None) -> None:
    """Carry out ``DrawPicture`` until the parent closes."""
    while received is not None:
        order, (ring, paper) = received.message, received.fds
        try:
            frame = _frame(ring, order)
            if frame is None:
                channel.send(PictureGone())
            else:
                picture = _drawn(frame, order)
                os.pwrite(paper, picture, 0)
                channel.send(PictureDrawn(len(picture)))
        finally:
            os.close(paper)
        received = channel.receive()


def _frame(ring: int, order: DrawPicture) -> NDArray[np.uint8] | None:
    """A copy of the frame, (height, width, 3); None where another one has its slot. Takes over ``ring``."""
    shape = RingShape(order.width, order.height, order.capacity)
    frames = Ring(ring, shape, writable=False).read([order.slot], [order.generation])
    if frames is None:
        return None
    width, height = order.filled or (order.width, order.height)
    return np.ascontiguousarray(frames[0, :height, :width])


def _drawn(frame: NDArray[np.uint8], order: DrawPicture) -> bytes:
    height, width, _ = frame.shape
    actors = []
    for actor in order.actors:
        x1, y1, x2, y2 = actor.box
        actors.append(replace(actor, box_px=(x1 * width, y1 * height, x2 * width, y2 * height)))
    return encode_jpeg(draw_actors(frame, drawn(actors), banner=banner(order.trained)))
