"""Writing a custom set's folder (trainer.data.custom reads it): tables complete or not at all, faults in one line."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stmixer.trainer.errors import writing

VIDEO_COLUMNS = ("video", "split", "fps", "frames", "width", "height", "note")
BOX_COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "label", "track", "origin")

Row = Sequence[object]


def make_folders(out: Path) -> None:
    """The set's folder with videos/ and previews/, tried out before hours of work. Raises TrainError."""
    with writing(out):
        for folder in (out, out / "videos", out / "previews"):
            make_writable(folder)


def make_writable(folder: Path) -> None:
    """Make a folder where it is missing, and write into it once. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


def write_tables(out: Path, videos: Sequence[Row], boxes: Sequence[Row]) -> None:
    """``boxes.csv`` and ``videos.csv``, rows as VIDEO_COLUMNS and BOX_COLUMNS say. Raises OSError."""
    write_csv(out / "boxes.csv", BOX_COLUMNS, boxes)
    write_csv(out / "videos.csv", VIDEO_COLUMNS, videos)


def rate_text(fps: float) -> str:
    """At most three decimals, none that say nothing."""
    return f"{fps:.3f}".rstrip("0").rstrip(".")


def write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    unfinished = path.with_name(path.name + ".partial")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
