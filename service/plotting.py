"""A result drawn onto its picture, for notebooks and scripts: what ``Result.plot`` and ``.show`` do.

Its own imports are the product's drawing; the client, which is installed without that, imports none of this.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageShow

from stmixer.media.annotated import FoundKeyframe, banner, drawn
from stmixer.media.draw import draw_actors
from stmixer.media.still import still
from stmixer.service.errors import InputError, StartError

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Variables that name a screen; xdg-open is there without one too, shows nothing and says that all went well."""
Picture = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image
"""A video, an RGB array (H, W, 3) of uint8, or a picture of Pillow's."""


def plotted(result: FoundKeyframe, picture: Picture | None, trained: bool) -> Image.Image:
    """The people of a result on its picture, with a banner where the model is not trained; see ``Result.plot``."""
    if picture is None:
        raise InputError(
            "no_picture", "this result is of no file that is known here: plot(frame) with its picture, or plot(path)"
        )
    rgb = _pixels(picture, result.pts_us)
    height, width, _ = rgb.shape
    if (width, height) != (result.frame.width, result.frame.height):
        wanted = f"{result.frame.width}×{result.frame.height}"
        raise InputError("bad_frame", f"its boxes are in px of a picture of {wanted}; this one has {width}×{height}")
    return Image.fromarray(draw_actors(rgb, drawn(result.actors), banner=banner(trained)))


def _pixels(picture: Picture, pts_us: int) -> NDArray[np.uint8]:
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            what = f"{picture.dtype} {picture.shape}"
            raise InputError("bad_frame", f"a picture is an array (height, width, 3) of uint8, RGB; this is {what}")
        return picture
    if isinstance(picture, str | os.PathLike):
        return still(Path(picture), pts_us)
    raise InputError("bad_frame", f"a picture is a path, an RGB array or one of Pillow's, not {type(picture).__name__}")


def show(image: Image.Image) -> None:
    """In the notebook that runs this, else in whatever shows pictures here. Raises StartError where nothing does."""
    if "ipykernel" in sys.modules:
        from IPython.display import display  # a notebook's own; no terminal has an ipykernel

        display(image)
    elif not any(map(os.environ.get, DISPLAYS)) or not ImageShow.show(image):
        raise StartError("missing", "nothing here shows pictures (xdg-open, display, eog): plot().save('out.jpg')")
