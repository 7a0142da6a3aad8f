"""Plots as SVG text: bars, precision–recall curves, a reliability diagram. Text and grid follow the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stmixer.trainer.evaluators.precision import ClassScore, Curve
from stmixer.trainer.evaluators.reliability import BINS, Reliability
from stmixer.trainer.evaluators.tables import Floats

# Okabe and Ito's, told apart by people with any colour vision, readable on white and on black.
BLUE, ORANGE, GREY = "#3b8fcf", "#d97a1c", "#8a8a8a"
_SIDE, _LEFT, _TOP, _BOTTOM = 200, 38, 22, 34
_POINTS = 200


def bars(classes: tuple[ClassScore, ...]) -> str:
    """AP per label, best first; labels without boxes are left out, those with few tracks are pale."""
    shown = sorted((c for c in classes if c.ap is not None), key=lambda c: -(c.ap or 0.0))
    row, names, width = 20, 210, 300
    parts = []
    for at, c in enumerate(shown):
        y, value = at * row, c.ap or 0.0
        tracks = "" if c.tracks is None else f", {c.tracks} tracks"
        note = f"{c.boxes} boxes{tracks}{' (few)' if c.few else ''}"
        parts.append(
            f'<text x="{names - 8}" y="{y + 14}" text-anchor="end">{escape(c.name)}</text>'
            f'<rect x="{names}" y="{y + 3}" width="{max(width * value, 1):.1f}" height="{row - 6}" fill="{BLUE}"'
            f' opacity="{0.4 if c.few else 1}"/>'
            f'<text x="{names + width * value + 6:.1f}" y="{y + 14}">{100 * value:.1f}'
            f'<tspan class="soft"> · {note}</tspan></text>'
        )
    return _svg(names + width + 230, max(len(shown), 1) * row, "".join(parts), "AP per label, percent")


def precision_recall(c: ClassScore) -> str:
    """One label's curve, recall to the right, precision up."""
    title = f"{c.name} · AP {100 * (c.ap or 0.0):.1f}"
    return _svg(*_size(), _axes(title, "recall", "precision") + _line(c.curve), f"precision–recall: {title}")


def person_curve(line: Curve, ap: float) -> str:
    """The same for people."""
    title = f"person · AP {100 * ap:.1f}"
    return _svg(*_size(), _axes(title, "recall", "precision") + _line(line), f"precision–recall: {title}")


def reliability_diagram(r: Reliability, what: str) -> str:
    """Observed share against mean score per bin; the diagonal is honest; a dot's area follows its bin's count."""
    x, y = _to_xy(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    parts = [f'<path d="M{x[0]:.1f} {y[0]:.1f}L{x[1]:.1f} {y[1]:.1f}" stroke="{GREY}" stroke-dasharray="4 4"/>']
    full = np.flatnonzero(r.count)
    xs, ys = _to_xy(r.predicted[full], r.observed[full])
    most = max(int(r.count.max()), 1)
    for at, px, py in zip(full.tolist(), xs.tolist(), ys.tolist(), strict=True):
        radius = 2.5 + 6 * float(np.sqrt(r.count[at] / most))
        says = f"{at / BINS:.1f}–{(at + 1) / BINS:.1f}: {r.count[at]} rows, predicted {r.predicted[at]:.3f}, "
        says += f"observed {r.observed[at]:.3f}"
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{ORANGE}"><title>{says}</title></circle>'
        )
    ece = "no rows" if r.ece is None else f"ECE {r.ece:.3f}"
    title = f"{what} score · {ece}"
    return _svg(*_size(), _axes(title, "predicted", "observed") + "".join(parts), f"reliability: {title}")


def line_chart(points: Sequence[tuple[float, float]], title: str, across: str, *, top: float | None = None) -> str:
    """Values over rising steps, from 0 or the least of them up to ``top`` or the greatest."""
    xs, ys = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    low, high = (0.0, top) if top is not None else (min(0.0, float(ys.min())), float(ys.max()))
    high = high if high > low else low + 1.0
    right = max(float(xs.max()), 1.0)
    wide, left = 2 * _SIDE, _LEFT + 12
    chosen = np.unique(np.linspace(0, len(xs) - 1, 2 * _POINTS).astype(np.int64))
    px = left + wide * xs[chosen] / right
    py = _TOP + _SIDE * (1 - (ys[chosen] - low) / (high - low))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(px.tolist(), py.tolist(), strict=True))
    parts = [f'<text x="{left + wide / 2}" y="14" text-anchor="middle" class="head">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + wide * share, _TOP + _SIDE * (1 - share)
        parts.append(
            f'<path d="M{left} {y:.1f}h{wide}M{x:.1f} {_TOP}v{_SIDE}" class="grid"/>'
            f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.3g}</text>'
            f'<text x="{x:.1f}" y="{_TOP + _SIDE + 14}" text-anchor="middle">{share * right:.0f}</text>'
        )
    parts.append(f'<text x="{left + wide / 2}" y="{_TOP + _SIDE + 29}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>')
    if len(chosen) == 1 or top is not None:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{BLUE}"/>' for x, y in zip(px, py, strict=True)]
    return _svg(left + wide + 16, _TOP + _SIDE + _BOTTOM, "".join(parts), f"{title} over {across}s")


def _size() -> tuple[int, int]:
    return _LEFT + _SIDE + 12, _TOP + _SIDE + _BOTTOM


def _to_xy(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    return _LEFT + _SIDE * x, _TOP + _SIDE * (1 - y)


def _line(line: Curve) -> str:
    """The curve from (recall 0, precision 1), at most ``_POINTS`` points of it."""
    recall, precision = np.concatenate([[0.0], line.recall]), np.concatenate([[1.0], line.precision])
    chosen = np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(np.int64))
    xs, ys = _to_xy(recall[chosen], precision[chosen])
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs.tolist(), ys.tolist(), strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="2"/>'


def _axes(title: str, across: str, up: str) -> str:
    """A frame from 0 to 1 with lines at every quarter."""
    parts = [f'<text x="{_LEFT + _SIDE / 2}" y="14" text-anchor="middle" class="head">{escape(title)}</text>']
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x,), (y,) = (v.tolist() for v in _to_xy(np.array([value]), np.array([value])))
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}h{_SIDE}M{x:.1f} {_TOP}v{_SIDE}" class="grid"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            f'<text x="{x:.1f}" y="{_TOP + _SIDE + 14}" text-anchor="middle">{value:g}</text>'
        )
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 29}" text-anchor="middle">{across}</text>'
        f'<text x="9" y="{middle}" text-anchor="middle" transform="rotate(-90 9 {middle})">{up}</text>'
    )
    return "".join(parts)


def _svg(width: float, height: float, body: str, says: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(says, quote=True)}">{body}</svg>'
    )
