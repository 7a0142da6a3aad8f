"""Results drawn onto pictures: actors with their actions, and the points at which the model looked.

Everything is drawn at a size that follows the picture's short side, so that 320 × 240 stays legible and 4K does not
get hairlines. Labels stand on opaque plates of the actor's colour, inside the picture, away from each other while
there is room. Text is Pillow's own font, so no font file is needed.
"""

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

# Bright enough for black text on each, and told apart by hue and lightness (after Okabe and Ito, and Tol).
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 190, 40),
    (80, 200, 120),
    (255, 130, 90),
    (215, 150, 230),
    (190, 220, 80),
    (100, 220, 215),
    (255, 160, 185),
)
LEVEL_COLOURS: dict[int, Colour] = {2: (255, 235, 60), 3: (90, 230, 110), 4: (60, 190, 255), 5: (255, 90, 200)}
_BLACK, _WHITE, _WARNING = (0, 0, 0), (255, 255, 255), (190, 30, 30)


@dataclass(frozen=True, slots=True)
class DrawnActor:
    """An actor to draw.

    Attributes:
        box_px: x1, y1, x2, y2 in pixels of the picture; what lies outside it is cut off.
        person_score: 0–1.
        labels: (name, score 0–1), the first at the top.
        track_id: decides the colour, so that it stays with the actor; without it the order does.
        outline_only: no plate with a text.
    """

    box_px: Box
    person_score: float
    labels: Sequence[tuple[str, float]]
    track_id: int | None = None
    outline_only: bool = False


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Sizes in pixels for a picture."""

    line: int
    text: int
    pad: int

    @classmethod
    def of(cls, width: int, height: int) -> "_Scale":
        short = min(width, height)
        text = max(10, round(0.032 * short + 3))
        return cls(line=max(2, round(short / 260)), text=text, pad=max(2, round(text / 5)))

    @property
    def row(self) -> int:
        return round(self.text * 1.22)


def draw_actors(rgb: np.ndarray, actors: Sequence[DrawnActor], *, banner: str | None = None) -> np.ndarray:
    """A copy of the picture with boxes, labels and, at the top, a banner.

    Args:
        rgb: (H, W, 3) uint8.
        banner: a short text for a strip over the full width, for instance "UNTRAINED MODEL".

    Returns:
        (H, W, 3) uint8.
    """
    image = Image.fromarray(rgb)
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    scale = _Scale.of(width, height)
    top = scale.row + 2 * scale.pad if banner else 0
    for number, actor in enumerate(actors):
        _draw_outline(canvas, _clipped_to_picture(actor.box_px, width, height), _colour(actor, number), scale)
    taken: list[Box] = []
    # From the top down: a plate then evades those above it, and the order is the same from frame to frame.
    for number, actor in sorted(enumerate(actors), key=lambda item: item[1].box_px[1]):
        if actor.outline_only:
            continue
        rows = _label_lines(actor, scale, width)
        size = max(canvas.textlength(row, _font(scale.text)) for row in rows) + 2 * scale.pad, len(rows) * scale.row
        plate = _label_place(_clipped_to_picture(actor.box_px, width, height), size, (0, top, width, height), taken)
        taken.append(plate)
        canvas.rectangle(_covered_pixels(plate), fill=_colour(actor, number))
        for at, row in enumerate(rows):
            canvas.text((plate[0] + scale.pad, plate[1] + at * scale.row), row, _BLACK, _font(scale.text))
    if banner:
        canvas.rectangle((0, 0, width - 1, top - 1), fill=_WARNING)
        text = _shortened(banner, scale, width - 2 * scale.pad)
        left = (width - canvas.textlength(text, _font(scale.text))) / 2
        canvas.text((left, scale.pad), text, _WHITE, _font(scale.text))
    return np.array(image)


def draw_points(
    rgb: np.ndarray, points_xy: np.ndarray, levels: np.ndarray, box_px: Box | None = None, title: str = ""
) -> np.ndarray:
    """A copy of the picture with sampling points, as in Figure 4 of the STMixer paper.

    Args:
        rgb: (H, W, 3) uint8; shown darker, so that the points stand out.
        points_xy: (N, 2) pixels; points outside the picture are left out.
        levels: (N,) pyramid level of each point, 2 (stride 4, a small dot) to 5 (stride 32, a large one); fractions are
            rounded, and what lies outside is taken to the nearest.
        box_px: the actor's box.
        title: at the top left.

    Returns:
        (H, W, 3) uint8.
    """
    image = Image.fromarray((rgb * 0.6).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    scale = _Scale.of(width, height)
    if box_px is not None:
        _draw_outline(canvas, _clipped_to_picture(box_px, width, height), _WHITE, scale)
    whole = np.clip(np.rint(levels), min(LEVEL_COLOURS), max(LEVEL_COLOURS)).astype(int)
    # Coarse levels first: their large dots must not hide the small ones.
    for index in np.argsort(-whole, kind="stable"):
        x, y = (float(v) for v in points_xy[index])
        if 0 <= x < width and 0 <= y < height:
            _draw_dot(canvas, x, y, int(whole[index]), scale)
    _draw_legend(canvas, scale, width, height)
    if title:
        text = _shortened(title, scale, width - 2 * scale.pad)
        length = canvas.textlength(text, _font(scale.text))
        canvas.rectangle((0, 0, length + 2 * scale.pad, scale.row + scale.pad), fill=_BLACK)
        canvas.text((scale.pad, scale.pad / 2), text, _WHITE, _font(scale.text))
    return np.array(image)


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures in rows of ``columns``, each in a cell of the largest one's size, on white.

    Args:
        images: at least one of (H, W, 3) uint8.
        gap: pixels between cells.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height, cell_width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    sheet = np.full((rows * (cell_height + gap) - gap, columns * (cell_width + gap) - gap, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(images):
        y, x = (number // columns) * (cell_height + gap), (number % columns) * (cell_width + gap)
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def _colour(actor: DrawnActor, number: int) -> Colour:
    return PALETTE[(number if actor.track_id is None else actor.track_id) % len(PALETTE)]


def _clipped_to_picture(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = (min(max(v, 0.0), limit - 1.0) for v, limit in zip(box, (width, height) * 2, strict=True))
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _covered_pixels(box: Box) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(v) for v in box)
    return x1, y1, x2 - 1, y2 - 1


def _draw_outline(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour, scale: _Scale) -> None:
    """A coloured line with a dark rim on both sides, seen on bright ground as on dark."""
    x1, y1, x2, y2 = (round(v) for v in box)
    rim = max(1, scale.line // 3)
    canvas.rectangle((x1, y1, x2, y2), outline=_BLACK, width=scale.line + 2 * rim)
    inner = (min(x1 + rim, x2), min(y1 + rim, y2), max(x2 - rim, x1), max(y2 - rim, y1))
    if inner[0] <= inner[2] and inner[1] <= inner[3]:
        canvas.rectangle(inner, outline=colour, width=scale.line)


def _label_lines(actor: DrawnActor, scale: _Scale, width: int) -> list[str]:
    """The plate's lines: who (and how surely), then an action each; as wide as the picture at most."""
    who = "person" if actor.track_id is None else f"person {actor.track_id}"
    # one line each, whatever a model's labels have in them
    named = (f"{' '.join(label.split())}  {score:.2f}" for label, score in actor.labels)
    rows = [f"{who}  {actor.person_score:.2f}", *named]
    return [_shortened(row, scale, width - 2 * scale.pad) for row in rows]


def _shortened(text: str, scale: _Scale, width: float) -> str:
    font = _font(scale.text)
    if font.getlength(text) <= width:
        return text
    too_long = bisect.bisect_left(range(len(text)), True, key=lambda kept: font.getlength(text[:kept] + "…") > width)
    return text[: max(0, too_long - 1)] + "…"


def _label_place(box: Box, size: tuple[float, float], bounds: Box, taken: Sequence[Box]) -> Box:
    """Where the plate goes: the first free place around the box, else the one that covers least of other plates."""
    x1, y1, x2, y2 = box
    wide, high = size
    wishes = [(x1, y1 - high), (x1, y1), (x2 - wide, y1), (x1, y2), (x2 - wide, y2 - high), (x1, y2 - high)]
    wishes += [(x2, y1), (x1 - wide, y1)]
    wishes += [(x1, plate[3]) for plate in taken] + [(x1, plate[1] - high) for plate in taken]
    best, least = None, math.inf
    for wish_x, wish_y in wishes:
        left = max(min(wish_x, bounds[2] - wide), bounds[0])
        above = max(min(wish_y, bounds[3] - high), bounds[1])
        plate = (left, above, left + wide, above + high)
        covered = sum(_shared_area(plate, other) for other in taken)
        if covered < least:
            best, least = plate, covered
        if covered == 0:
            break
    assert best is not None
    return best


def _shared_area(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw_dot(canvas: ImageDraw.ImageDraw, x: float, y: float, level: int, scale: _Scale) -> None:
    radius = _dot_radius(level, scale)
    canvas.ellipse(
        (x - radius, y - radius, x + radius, y + radius), LEVEL_COLOURS[level], _BLACK, max(1, scale.line // 3)
    )


def _dot_radius(level: int, scale: _Scale) -> float:
    return scale.line * (1.1 + 0.6 * (level - min(LEVEL_COLOURS))) + 0.5


def _draw_legend(canvas: ImageDraw.ImageDraw, scale: _Scale, width: int, height: int) -> None:
    """One line at the bottom right: a dot and a name per level."""
    entries = [(level, f"z={level}") for level in sorted(LEVEL_COLOURS)]
    dot = 2 * _dot_radius(max(LEVEL_COLOURS), scale) + 2 * scale.pad
    lengths = [dot + canvas.textlength(name, _font(scale.text)) + 2 * scale.pad for _, name in entries]
    left, top = width - sum(lengths) - scale.pad, height - scale.row - scale.pad
    canvas.rectangle((left, top, width, height), fill=_BLACK)
    left += scale.pad
    for (level, name), length in zip(entries, lengths, strict=True):
        _draw_dot(canvas, left + dot / 2, top + (scale.row + scale.pad) / 2, level, scale)
        canvas.text((left + dot, top + scale.pad / 2), name, _WHITE, _font(scale.text))
        left += length
