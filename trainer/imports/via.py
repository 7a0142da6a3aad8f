"""Projects of VIA 3 (VGG's annotator) for video and pictures: the project's JSON, or its export as CSV.

A region has ``xy``: its shape's number and coordinates in px, 2 for a rectangle as x, y, width, height; ``z``: the
moment in seconds, of a picture nothing; and ``av``: for each attribute's number what was chosen, options by their
numbers, several of a checkbox with commas between. A stretch of time without a region says nothing of who.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.imports.export import Corners, Export, Footage, LeftOut, SeenBox
from stmixer.trainer.imports.json_values import WrongValue, mapping, number, read_json, text
from stmixer.trainer.imports.parts import of_a_part
from stmixer.trainer.imports.shapes import around_points

Json = Mapping[str, Any]

_HEADER = "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
_ATTRIBUTES = "# ATTRIBUTE = "
_CHECKBOX, _BY_OPTION = 2, (2, 3, 4, 5)
"""Kinds of attributes: of several options, and all of those whose values are numbers of options."""
_IMAGE = 2
"""The kind of a file that is a picture."""
_RECTANGLE, _POLYGON, _EXTREME_RECTANGLE = 2, 7, 8
_TRACK_NAMES = ("track", "track_id", "person", "person_id", "pid")
"""Attributes that tell who it is."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    """A question's name, its kind and the answers to choose from."""

    name: str
    kind: int
    options: Mapping[str, str]

    def said(self, value: object) -> list[tuple[str, str]]:
        """What was answered, as names and texts; nothing where it was left open. Raises WrongValue."""
        given = text(value, self.name) if value is not None else ""
        if self.kind not in _BY_OPTION:
            return [(self.name, given)] if given else []
        chosen = given.split(",") if self.kind == _CHECKBOX else [given]
        return [(self.name, self.options[one]) for one in chosen if one in self.options]


def is_via(values: object) -> bool:
    """Whether a JSON file's content is a project of VIA 3."""
    return isinstance(values, dict) and {"project", "file", "metadata", "attribute"} <= values.keys()


def is_via_2(values: object) -> bool:
    """... of VIA 2, which is of pictures alone."""
    return isinstance(values, dict) and "_via_img_metadata" in values


def is_via_csv(path: Path) -> bool:
    """Whether a file is a project's export as CSV. Raises TrainError where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return b"# CSV_HEADER = metadata_id,file_list" in file.read(1 << 20)


def read_via(paths: Iterable[Path]) -> Export:
    """One or more projects. Raises TrainError."""
    footage: list[Footage] = []
    left_out = LeftOut()
    for path, part in of_a_part(paths, left_out):
        try:
            found = _read_csv(path, left_out) if path.suffix.lower() == ".csv" else _read_project(path, left_out)
        except WrongValue as error:
            raise TrainError(f"{path} is no project of VIA 3 as we read it: {error}") from None
        for each in found:
            each.part = part
        footage += found
    return Export("VIA 3", footage, left_out)


def _read_project(path: Path, left_out: LeftOut) -> list[Footage]:
    values = mapping(read_json(path), str(path))
    attributes = _attributes(values["attribute"])
    files: dict[str, Footage] = {}
    for key, entry in mapping(values["file"], "file").items():
        file = mapping(entry, "a file")
        name = text(file.get("fname") or file.get("src"), "a file's name")
        kind = "picture" if str(file.get("type")) == str(_IMAGE) else "video"
        files[str(key)] = Footage(name, "picture" if kind == "picture" else "video")
    shown: dict[str, str] = {}
    for key, entry in mapping(values.get("view") or {}, "view").items():
        listed = mapping(entry, "a view").get("fid_list")
        if isinstance(listed, list) and listed:
            shown[str(key)] = str(listed[0])
    for key, entry in mapping(values["metadata"], "metadata").items():
        region = mapping(entry, "a region")
        footage = files.get(shown.get(str(region.get("vid")), ""))
        if footage is None:
            left_out.note("regions are of a file that the project does not list", str(key))
            continue
        _add(footage, attributes, str(key), region.get("z"), region.get("xy"), region.get("av"), left_out)
    return list(files.values())


def _read_csv(path: Path, left_out: LeftOut) -> list[Footage]:
    try:
        with reading(path):
            whole = path.read_text(encoding="utf-8-sig")
        lines = whole.splitlines(keepends=True)
        head = [line for line in lines if line.startswith("#")]
        stated = next((line[len(_ATTRIBUTES) :] for line in head if line.startswith(_ATTRIBUTES)), "{}")
        attributes = _attributes(json.loads(stated))
        files: dict[str, Footage] = {}
        body = "".join(line for line in lines if not line.startswith("#"))
        for row in csv.reader(io.StringIO(body, newline="")):
            if not any(row):
                continue
            if len(row) < 6:
                raise WrongValue(f"a line has {len(row)} values, not the six of {_HEADER[2:]}")
            listed = json.loads(row[1])
            name = text(listed[0] if isinstance(listed, list) and listed else None, "file_list")
            z, xy, av = (json.loads(value) for value in row[3:6])
            footage = files.setdefault(name, Footage(name, "video"))
            _add(footage, attributes, row[0], z, xy, av, left_out)
    except UnicodeDecodeError:
        raise TrainError(f"{path} is no text in UTF-8") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise WrongValue(str(error)) from None
    return list(files.values())


def _attributes(value: object) -> dict[str, _Attribute]:
    found = {}
    for key, entry in mapping(value, "attribute").items():
        stated = mapping(entry, "an attribute")
        options = stated.get("options")
        texts = {str(k): str(v) for k, v in options.items()} if isinstance(options, dict) else {}
        kind = stated.get("type")
        found[str(key)] = _Attribute(
            text(stated.get("aname") or key, "an attribute's name"), kind if isinstance(kind, int) else 1, texts
        )
    return found


def _add(
    footage: Footage,
    attributes: Mapping[str, _Attribute],
    key: str,
    z: object,
    xy: object,
    av: object,
    left_out: LeftOut,
) -> None:
    """A region. Raises WrongValue."""
    if not xy:
        left_out.note("stretches of time have no box, so nothing says who it is", f"{footage.name}, {key}")
        return
    corners = _corners(xy)
    if corners is None:
        left_out.note("regions are no rectangles or polygons", f"{footage.name}, {key}")
        return
    times = z if isinstance(z, list) else []
    second = number(times[0], "z") if times else None
    if second is None and footage.kind == "video":
        left_out.note("regions of a video have no time", f"{footage.name}, {key}")
        return
    said: list[tuple[str, str]] = []
    for number_of, value in mapping(av or {}, "av").items():
        if (attribute := attributes.get(str(number_of))) is not None:
            said += attribute.said(value)
    track = next((value for name, value in said if name.lower() in _TRACK_NAMES), None)
    box = SeenBox(corners, "", tuple(said), second=None if footage.kind == "picture" else second, track=track)
    footage.boxes.append(box)


def _corners(xy: object) -> Corners | None:
    """None for other shapes. Raises WrongValue."""
    if not isinstance(xy, list):
        raise WrongValue("xy is no list")
    shape, values = xy[0], [number(each, "xy") for each in xy[1:]]
    if shape in (_RECTANGLE, _EXTREME_RECTANGLE) and len(values) >= 4:
        x, y, width, height = values[:4]
        return x, y, x + width, y + height
    if shape == _POLYGON and len(values) >= 6:
        return around_points(_pairs(values))
    return None


def _pairs(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(values[0::2], values[1::2], strict=False))
