"""Folders of YOLO's: a text file of boxes beside every picture, ``class x y width height`` in shares, classes listed.

``data.yaml`` says where training and validation pictures lie and what classes are called (Ultralytics, Roboflow); else
``obj.names`` (Darknet, CVAT) or ``classes.txt`` does. A line may go on with a confidence, and with who it is; one with
more values is an outline's points, ``class x y x y …``, or has keypoints, where ``data.yaml`` says how many. Text
files without pictures, ``NAME_12.txt``, are those of a video's frames as Ultralytics writes them, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from stmixer.trainer.config.file import read_yaml
from stmixer.trainer.data.records import Part
from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.imports.export import SHARES, Corners, Export, Footage, LeftOut, SeenBox
from stmixer.trainer.imports.media_files import PICTURES
from stmixer.trainer.imports.parts import UNUSED, part_of_name
from stmixer.trainer.imports.shapes import around_points

Which = Part | Literal["test"] | None

_LISTS = ("obj.names", "classes.txt", "classes.names")
_KEYS: tuple[tuple[str, Which], ...] = (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test"))
_OF_FRAME = re.compile(r"(.+?)_(\d+)")
_NO_LABELS = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "obj.names", "readme.txt"}


@dataclass(frozen=True, slots=True)
class _Lines:
    """What lines mean: how classes are called by number, and how many values of keypoints follow a box."""

    names: Mapping[int, str]
    keypoints: int


def names_file(folder: Path) -> Path | None:
    """What says how the classes of a folder are called; None where it is no such folder."""
    found = sorted(path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml") and _has_names(path))
    if found:
        return found[0]
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)


def _has_names(path: Path) -> bool:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(values, dict) and "names" in values


def read_yolo(file: Path) -> Export:
    """A folder, by the file that names its classes. Raises TrainError."""
    left_out, notes = LeftOut(), list[str]()
    folder = file.parent
    values = read_yaml(file) if file.suffix in (".yaml", ".yml") else {}
    names = _names(values.get("names"), file) if values else _listed(file)
    form = _Lines(names, _keypoints(values.get("kpt_shape"), file))
    pictures: dict[Path, Which] = {}
    for key, part in _KEYS:
        for place in _places(values.get(key), folder, values.get("path"), file):
            for picture in _pictures(place, folder):
                pictures.setdefault(picture.resolve(), part)
    if not pictures:
        for picture in _pictures(folder, folder):
            pictures[picture.resolve()] = part_of_name(" ".join(picture.relative_to(folder).parts[:-1]))
    footage: list[Footage] = []
    used: set[Path] = set()
    for picture, part in pictures.items():
        label = _label_file(picture)
        used.add(label)
        if part == UNUSED:
            left_out.note("pictures are of a test split", picture.name)
            continue
        one = Footage(_name(picture, folder), "picture", part=part)
        one.boxes = _boxes(label, form, left_out) if label.is_file() else []
        footage.append(one)
    videos = _videos(folder, form, used, left_out)
    if videos:
        notes.append("text files without a picture are frames of videos, counted from 1 (or 0, if one is called so)")
    return Export("YOLO", [*footage, *videos.values()], left_out, notes)


def _names(value: object, file: Path) -> dict[int, str]:
    if isinstance(value, list):
        return {i: str(name) for i, name in enumerate(value)}
    if isinstance(value, dict) and all(str(key).isdecimal() for key in value):
        return {int(key): str(name) for key, name in value.items()}
    raise TrainError(f"{file}: names is neither a list of classes nor their numbers and names")


def _keypoints(value: object, file: Path) -> int:
    """How many values of keypoints follow a box, of Ultralytics' [points, values of each]. Raises TrainError."""
    if value is None:
        return 0
    if isinstance(value, list) and len(value) == 2 and all(type(each) is int and each > 0 for each in value):
        return int(value[0] * value[1])
    raise TrainError(f"{file}: kpt_shape is not how many keypoints there are and how many values each has")


def _listed(file: Path) -> dict[int, str]:
    try:
        with reading(file):
            lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise TrainError(f"{file} is no text in UTF-8") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise TrainError(f"{file} names no class")
    return dict(enumerate(names))


def _places(value: object, folder: Path, root: object, file: Path) -> list[Path]:
    """Folders and lists that a key names, those that are there. Raises TrainError."""
    given = value if isinstance(value, list) else [] if value is None else [value]
    found = []
    for each in given:
        if not isinstance(each, str):
            raise TrainError(f"{file}: {each!r} is no folder's name")
        inner = Path(re.sub(r"^(\.\./|\./)+", "", each))  # Roboflow writes ../train/images beside train/
        tried = [Path(root) / each, folder / str(root) / each] if isinstance(root, str) else []
        tried += [folder / each, folder / inner]
        there = next((path for path in tried if path.exists()), None)
        if there is not None:
            found.append(there)
    return found


def _pictures(place: Path, folder: Path) -> list[Path]:
    """Of a folder, or of a list of files. Raises TrainError."""
    with reading(place):
        if place.is_dir():
            return sorted(path for path in place.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
        if place.suffix.lower() in PICTURES:
            return [place]
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for line in filter(None, map(str.strip, lines)):
        inner = re.sub(r"^(\.\./|\./)+", "", line)
        # CVAT's lists begin with data/, which is no folder
        tried = (place.parent / line, folder / inner, folder / inner.removeprefix("data/"))
        found += [path for path in tried if path.is_file()][:1]
    return found


def _label_file(picture: Path) -> Path:
    """Beside the picture, or where ``labels`` stands for the last ``images`` of its path."""
    parts = list(picture.parent.parts)
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        parts[at] = "labels"
        elsewhere = Path(*parts) / f"{picture.stem}.txt"
        if elsewhere.is_file() or not picture.with_suffix(".txt").is_file():
            return elsewhere
    return picture.with_suffix(".txt")


def _name(picture: Path, folder: Path) -> str:
    try:
        return picture.relative_to(folder.resolve()).as_posix()
    except ValueError:
        return picture.name


def _videos(folder: Path, form: _Lines, used: set[Path], left_out: LeftOut) -> dict[str, Footage]:
    """Of text files without a picture, by the video's name. Raises TrainError."""
    found: dict[str, list[tuple[int, Path]]] = {}
    with reading(folder):
        texts = sorted(path for path in folder.rglob("*.txt") if path.name.lower() not in _NO_LABELS)
    for path in texts:
        match = _OF_FRAME.fullmatch(path.stem)
        if path.resolve() in used:
            continue
        if match is None:
            left_out.note("text files have no picture, and no number as a video's frames have", path.name)
            continue
        found.setdefault(match[1], []).append((int(match[2]), path))
    videos = {}
    for name, frames in found.items():
        first = min(1, *(number for number, _ in frames))
        video = videos[name] = Footage(name, "video")
        for number, path in frames:
            video.boxes += _boxes(path, form, left_out, frame=number - first)
    return videos


def _boxes(path: Path, form: _Lines, left_out: LeftOut, frame: int | None = None) -> list[SeenBox]:
    """A text file's. Raises TrainError where it cannot be read."""
    with reading(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    boxes = []
    for at, line in enumerate(lines, start=1):
        if not (cells := line.split()):
            continue
        where = f"{path.name}:{at}"
        try:
            label, corners, track = _box(cells, form)
        except (ValueError, OverflowError) as error:
            left_out.note(f"lines are no boxes ({error})", where)
            continue
        boxes.append(SeenBox(corners, label, size_wh=SHARES, frame=frame, track=track))
    return boxes


def _box(cells: Sequence[str], form: _Lines) -> tuple[str, Corners, str | None]:
    """Class, corners, and who it is. Raises ValueError."""
    if len(cells) < 5:
        raise ValueError("fewer than five values")
    number = int(float(cells[0]))
    if number not in form.names:
        raise ValueError(f"class {number} has no name")
    values = [float(cell) for cell in (*cells[1:5], *cells[5 + form.keypoints :])]
    last = cells[-1] if len(values) > 4 and cells[-1].isdecimal() else None
    if not form.keypoints and (len(values) > 6 or (len(values) == 6 and last is None)):
        return form.names[number], *_outline(values, last)
    x, y, width, height = values[:4]
    return form.names[number], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), last


def _outline(values: Sequence[float], last: str | None) -> tuple[Corners, str | None]:
    """The box around points, and who it is. ``last``: the last value where it is a whole number.

    Behind the points comes one value, a confidence or who it is, or both; of an even number of values these are the
    last two where the last is above 1, which no share is.
    """
    behind = len(values) % 2 or (2 if last is not None and int(last) > 1 else 0)
    points = values[: len(values) - behind]
    return around_points(list(zip(points[0::2], points[1::2], strict=True))), last if behind else None
