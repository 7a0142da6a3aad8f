"""How large and how long a video may be, and how much of a result is drawn into it."""

import math
from dataclasses import dataclass

from stmixer.media.errors import MediaError

DRAWN_ACTION_SCORE = 0.5
"""The operating point: from here on an action is said. A person who does nothing that likely is a person."""
DRAWN_ACTIONS = 3
"""Actions of one actor that a picture names at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on untrusted media; the defaults are the service's.

    Attributes:
        max_width, max_height: pixels as displayed; the long side is compared with the long one of the two and the
            short with the short, so that a portrait video is no larger than the same video lying down.
        max_duration_s: seconds from the first frame; ``math.inf`` for a live stream.
        max_pixels: pixels of one picture, whatever its shape.
    """

    max_width: int = 3840
    max_height: int = 2160
    max_duration_s: float = 600.0
    max_pixels: int = 3840 * 2160

    @classmethod
    def unlimited(cls) -> "Limits":
        """For one's own files on one's own machine: any length, pictures up to 16K wide and 64 megapixels."""
        return cls(max_width=16384, max_height=16384, max_duration_s=math.inf, max_pixels=8192 * 8192)

    @property
    def decoder_pixels(self) -> int:
        """FFmpeg's own bound, against memory only; twice ours, since it counts padding and must not pre-empt us."""
        return 2 * self.max_pixels + 65536

    def check_size(self, width: int, height: int) -> None:
        """Raises MediaError ``too_large`` for a picture over the limits, ``unreadable`` for an empty one."""
        if width < 1 or height < 1:
            raise MediaError("unreadable", f"the picture has no area ({width} × {height}); check the file")
        long_side, short_side = max(width, height), min(width, height)
        if (
            long_side > max(self.max_width, self.max_height)
            or short_side > min(self.max_width, self.max_height)
            or width * height > self.max_pixels
        ):
            raise MediaError(
                "too_large",
                f"the picture is {width} × {height}, over the limit of {self.max_width} × {self.max_height}; "
                "scale it down",
            )

    def check_duration(self, seconds: float) -> None:
        """Raises MediaError ``too_long`` for a video over the limit; ``seconds`` count from the first frame."""
        if seconds > self.max_duration_s:
            raise MediaError(
                "too_long", f"the video runs over the limit of {self.max_duration_s:g} s; cut it or send it in parts"
            )
