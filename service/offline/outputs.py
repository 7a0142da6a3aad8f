"""Where results of ``stmixer detect`` go: one file of one video, one file of all, or a folder with a file each."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import TextIO
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from stmixer.service.errors import InputError, StartError
from stmixer.service.offline.inputs import Input
from stmixer.service.schemas import COLUMNS, DetectFile, DetectOptions, DetectResponse, Result

AVA, MOT = ".ava.csv", ".mot.txt"
OF_ONE = (".json", ".mp4", ".jpg", ".png", MOT)
OF_ALL = (".jsonl", ".csv", AVA)
DRAWN = (".mp4", ".jpg", ".png")
OF_CAMERA = (".jsonl", ".csv", AVA, ".json")
"""The first three are written as it goes, the last when it has ended."""


def form_of(path: Path) -> str:
    """The end of its name that says what is written: the longest of ours that it has, else its suffix."""
    return next((form for form in (AVA, MOT) if path.name.endswith(form)), path.suffix)


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Input]) -> None:
    """Whether results can go there. Raises InputError."""
    camera = next((item for item in inputs if item.kind == "camera"), None)
    for path in outputs:
        if camera is not None and form_of(path) not in OF_CAMERA:
            forms = ", ".join(OF_CAMERA)
            raise InputError(
                "bad_option", f"-o {path}: of {camera.name}, a camera, the name must end in one of {forms}"
            )
        if is_folder(path):
            continue
        if form_of(path) not in OF_ONE + OF_ALL:
            raise InputError(
                "bad_option",
                f"-o {path}: the name must end in .json, .mp4 or {MOT}, in .jsonl, .csv or {AVA}, or be a folder's",
            )
        if not path.parent.is_dir():
            raise InputError("unwritable", f"the folder of -o {path} does not exist")
        if form_of(path) in OF_ONE and len(inputs) > 1:
            raise InputError(
                "bad_option",
                f"-o {path} holds the results of one, and there are {len(inputs)}: take .jsonl, .csv or a folder",
            )
        if path.suffix == ".mp4" and any(item.kind == "picture" for item in inputs):
            raise InputError("bad_option", f"-o {path}: a picture is drawn upon as .jpg or .png")
        if path.suffix in (".jpg", ".png") and any(item.kind == "video" for item in inputs):
            raise InputError("bad_option", f"-o {path}: a video is drawn upon as .mp4")
        if path.exists() and any(item.kind in ("video", "picture") and path.samefile(item.path) for item in inputs):
            raise InputError("bad_option", f"-o {path} is the input itself")


def is_folder(path: Path) -> bool:
    """Whether a folder of results is meant: one that is there, or a name without ending."""
    return path.is_dir() or not path.suffix


def place_in(folder: Path, item: Input, inputs: Sequence[Input]) -> Path:
    """The file of one's results in a folder, each input's its own: under the folders in which the inputs differ, an
    address's under its host."""
    if item.kind == "url":
        parts = urlsplit(item.place)
        above = [part for part in unquote(parts.path).split("/")[:-1] if part not in ("", ".", "..")]
        asked = f".{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}" if parts.query else ""
        return Path(folder, parts.netloc.rpartition("@")[2].replace(":", "_"), *above, f"{item.file_name}{asked}.json")
    others = [os.path.realpath(other.path.parent) for other in inputs if other.kind != "url"]
    below = os.path.relpath(os.path.realpath(item.path.parent), os.path.commonpath(others))
    return folder / below / f"{item.file_name}.json"


def videos_of(inputs: Sequence[Input]) -> dict[Input, str]:
    """What each is called in AVA's table, where no two are one: its name without its end; where several have that, the
    folders in which they differ before it; where they differ by their ends alone, with them."""
    names = {item: Path(item.file_name).stem for item in inputs}
    for with_end in (False, True):
        held = Counter(names.values())
        for item in [item for item, name in names.items() if held[name] > 1]:
            place = place_in(Path(), item, inputs).with_suffix("")  # without its .json
            names[item] = (place if with_end else place.with_suffix("")).as_posix()
    return names


def write_json(path: Path, response: DetectResponse, options: DetectOptions | None = None) -> None:
    """What the service answers; with ``options`` a ``DetectFile``. Complete or not at all. Raises StartError."""
    made_by = {} if options is None else {"options": options.model_dump()}
    _write_text(path, json.dumps(response.model_dump() | made_by, indent=1) + "\n")


def read_json(path: Path) -> DetectFile:
    """What ``write_json`` wrote, into a folder in most cases. Raises InputError."""
    try:
        return DetectFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError("unreadable", f"{path} holds no results; delete it, and they are made anew") from None


def write_mot(path: Path, response: DetectResponse) -> None:
    """Who is who as MOTChallenge has it. Complete or not at all. Raises StartError.

    A line for each person: frame, track, left, top, width, height in px, person score, and -1 for what is not known.
    Frames are keyframes, counted from 1.
    """
    lines = []
    for result in response.keyframes:
        for actor in result.actors:
            left, top, right, bottom = actor.box_px
            place = f"{left:.1f},{top:.1f},{right - left:.1f},{bottom - top:.1f}"
            lines.append(f"{result.seq + 1},{actor.track_id},{place},{actor.person_score:.4f},-1,-1,-1\n")
    _write_text(path, "".join(lines))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> StartError:
    """What is said when a disk does not take results."""
    return StartError("unwritable", f"{path} cannot be written: {error.strerror or error}")


class Table:
    """A ``.jsonl``, ``.csv`` or ``.ava.csv`` file of all results, written one input after the other. Raises StartError.

    AVA's has no head: video (``videos_of``), seconds, corners as shares, number of the action, score.

    Args:
        keyframe_hz: as it was asked for. At 1 AVA's table has whole seconds, which its evaluators want: each the
            keyframe nearest to it, of those within half a period.
    """

    def __init__(self, path: Path, keyframe_hz: float) -> None:
        self.path, self._form, self._keyframe_hz = path, form_of(path), keyframe_hz
        try:
            self._file: TextIO = path.open("w", encoding="utf-8", newline="")
            self._rows = csv.writer(self._file) if path.suffix == ".csv" else None
            if self._form == ".csv" and self._rows is not None:
                self._rows.writerow(("source", *COLUMNS))
        except OSError as error:
            raise unwritable(path, error) from None

    def add(self, name: str, video: str, response: DetectResponse) -> None:
        """One video's results; ``video``: what AVA's table calls it."""
        try:
            if self._form == AVA and self._rows is not None:
                for at, result in _ava_keyframes(response.keyframes, whole=self._keyframe_hz == 1):
                    self._rows.writerows(_ava_rows(video, at, result))
            elif self._rows is not None:
                self._rows.writerows((name, *row) for result in response.keyframes for row in result.rows())
            else:
                self._file.writelines(
                    json.dumps({"source": name} | result.model_dump()) + "\n" for result in response.keyframes
                )
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from None

    def close(self) -> None:
        """No more will come."""
        try:
            self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from None


def _ava_keyframes(keyframes: Sequence[Result], *, whole: bool) -> Iterator[tuple[str, Result]]:
    """Keyframes with their seconds as AVA writes them, 0902; others with their thousandths.

    With ``whole`` those nearest to whole seconds. A model's own grid has periods of a little more or less than a second
    (1.067 for 1): now and then one keyframe is the nearest to two seconds, or to none.
    """
    if not whole:
        for result in keyframes:
            seconds, millis = divmod(round(result.pts_us / 1000), 1000)
            yield (f"{seconds:04}.{millis:03}" if millis else f"{seconds:04}"), result
        return
    times = [result.pts_us / 1e6 for result in keyframes]
    gaps = [after - before for before, after in pairwise(times)]
    period_s = median_low(gaps or [1.0])
    # halfway to its neighbours, of which frames' own times put some further off; not into gaps
    reach_s = [min(gap, 1.5 * period_s) / 2 + 1e-6 for gap in (period_s, *gaps, period_s)]
    nearest: dict[int, int] = {}
    for number, at_s in enumerate(times):
        first, last = math.ceil(at_s - reach_s[number]), math.floor(at_s + reach_s[number + 1])
        for second in range(max(0, first), last + 1):
            held = nearest.setdefault(second, number)
            if abs(at_s - second) < abs(times[held] - second):
                nearest[second] = number
    for second, number in sorted(nearest.items()):
        yield f"{second:04}", keyframes[number]


def _ava_rows(video: str, at: str, result: Result) -> Iterator[tuple[str | int, ...]]:
    """A row for each action of each person."""
    for actor in result.actors:
        corners = [f"{share:.4f}" for share in actor.box]
        for action in actor.actions:
            yield (video, at, *corners, action.id, f"{action.score:.4f}")
