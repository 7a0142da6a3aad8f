"""Lines over numbers as an SVG, without a plotting library: for documents that show what a bench computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 44
COLOURS = ("#0b7a75", "#c2410c", "#4338ca", "#6b7280")
"""Told apart by people who see no red or no green too, and against white; dashes tell them apart besides."""
DASHES = ("", "7 4", "2 3", "10 3 2 3")


@dataclass(frozen=True)
class Line:
    """``points``: x and y, x rising. ``dots``: measured, so shown as points and not joined."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_plot(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """The SVG's text. Axes begin at 0; the same lines give the same text."""
    most_x = _round_up(max(x for line in lines for x, _ in line.points))
    most_y = _round_up(max(y for line in lines for _, y in line.points))

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / most_x
        return f"{across:.1f},{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / most_y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
        *_axes(most_x, most_y, place),
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end" fill="#444">{escape(x_name)}</text>',
        f'<text x="{LEFT}" y="36" fill="#444">{escape(y_name)}</text>',
    ]
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        if line.dots:
            places = [place(x, y).split(",") for x, y in line.points]
            parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        else:
            points = " ".join(place(x, y) for x, y in line.points)
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += _legend(number, line, colour, dash)
    return "\n".join([*parts, "</svg>", ""])


def _axes(most_x: float, most_y: float, place: Callable[[float, float], str]) -> list[str]:
    parts = []
    for part in range(5):
        x, y = most_x * part / 4, most_y * part / 4
        across, down = place(x, 0).split(",")[0], place(0, y).split(",")[1]
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{float(down) + 4:.1f}" text-anchor="end" fill="#444">{y:g}</text>',
            f'<text x="{across}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#444">{x:g}</text>',
        ]
    return parts


def _legend(number: int, line: Line, colour: str, dash: str) -> list[str]:
    y = TOP + 14 + 17 * number
    x = WIDTH - RIGHT - 12
    mark = (
        f'<circle cx="{x}" cy="{y - 4}" r="3.5" fill="{colour}"/>'
        if line.dots
        else f'<line x1="{x - 14}" x2="{x + 10}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash or "none"}"/>'
    )
    return [mark, f'<text x="{x - 20}" y="{y}" text-anchor="end">{escape(line.name)}</text>']


def _round_up(value: float) -> float:
    """To 1, 2, 4 or 8 with some noughts, so that quarters are short numbers."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 4, 8, 10) if step * scale >= value * (1 - 1e-9))
