"""Single pictures from and to files: what a still camera or a screenshot gives. Pillow reads them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stmixer.media.errors import MediaError


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright as its EXIF says; of several pictures in a file the first.

    Raises:
        MediaError: ``unreadable`` for what is no picture or is cut off, ``too_large`` beyond about 90 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise MediaError("too_large", f"{path} has too many pixels for a picture; shrink it") from None
    except UnidentifiedImageError:
        raise MediaError("unreadable", f"{path} is no picture that can be read; JPEG, PNG and WebP can") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError("unreadable", f"{path} cannot be read as a picture: {error}") from None


def write_picture(path: Path, rgb: NDArray[np.uint8]) -> None:
    """(H, W, 3) uint8 RGB to a file whose ending says how. Raises OSError."""
    Image.fromarray(rgb).save(path)
