"""CVAT's XML 1.1, for images (``<image>`` with shapes) and for video (``<track>`` with a box a frame).

Corners are in px. What a label's attributes say comes with each box. A track's boxes stand on the frames of the video
that the task was made of; between two of them without one for every frame the box moves on a line, as CVAT draws it,
and where the later one is ``outside`` it stays until there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.imports.export import Corners, Export, Footage, LeftOut, SeenBox
from stmixer.trainer.imports.json_values import WrongValue, number, whole
from stmixer.trainer.imports.parts import UNUSED, part_of_name
from stmixer.trainer.imports.shapes import around_points, turned

_HEAD = 1 << 16
_VIDEO_FRAME = re.compile(r"frame_(\d+)(\.\w+)?")
_OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton", "mask", "tag", "ellipse")


@dataclass(slots=True)
class _Task:
    """What the file's head says."""

    source: str = ""
    size: tuple[float, float] | None = None
    step: int = 1
    tasks: int = 0


@dataclass(slots=True)
class _Read:
    """What is found as the file is read."""

    task: _Task = field(default_factory=_Task)
    pictures: list[Footage] = field(default_factory=list)
    video: Footage | None = None
    left_out: LeftOut = field(default_factory=LeftOut)


def is_cvat(path: Path) -> bool:
    """Whether a file begins as one of these does. Raises TrainError where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return b"<annotations" in file.read(_HEAD)


def read_cvat(paths: Iterable[Path]) -> Export:
    """One or more files, a task each. Raises TrainError."""
    footage: list[Footage] = []
    left_out = LeftOut()
    for path in paths:
        read = _Read(left_out=left_out)
        try:
            _refuse_entities(path)
            with reading(path):
                for element in _top_elements(path):
                    _take(element, read)
        except WrongValue as error:
            raise TrainError(f"{path} is no CVAT XML 1.1 as we read it: {error}") from None
        except (ElementTree.ParseError, LookupError) as error:  # the latter of an encoding that there is not
            raise TrainError(f"{path} is no XML, or is cut off: {error}") from None
        if read.task.tasks > 1 and read.video is not None:
            raise TrainError(f"{path} is of a project with {read.task.tasks} videos; export each task by itself")
        footage += _of_video(read) + ([] if read.video is None else [read.video])
    return Export("CVAT 1.1", footage, left_out)


def _refuse_entities(path: Path) -> None:
    """A document type of its own may make a small file endless. Raises TrainError."""
    with reading(path), path.open("rb") as file:
        if b"<!DOCTYPE" in file.read(_HEAD).replace(b"\x00", b""):
            raise TrainError(f"{path} has a document type (<!DOCTYPE>), which no export of CVAT has")


def _top_elements(path: Path) -> Iterator[Element]:
    """``meta``, ``image`` and ``track``, each forgotten once it was seen. Raises ParseError."""
    depth, root = 0, None
    for event, element in ElementTree.iterparse(path, ("start", "end")):
        if event == "start":
            root = element if depth == 0 else root
            depth += 1
            continue
        depth -= 1
        if depth == 1:
            yield element
            assert root is not None
            root.clear()


def _take(element: Element, read: _Read) -> None:
    if element.tag == "meta":
        read.task = _task(element)
    elif element.tag == "image":
        _add_image(element, read)
    elif element.tag == "track":
        _add_track(element, read)


def _task(meta: Element) -> _Task:
    """Raises WrongValue."""
    found = [each for each in (*meta.iter("task"), *meta.iter("job")) if each.find("size") is not None]
    source = meta.findtext(".//source") or ""
    step = re.search(r"step=(\d+)", meta.findtext(".//frame_filter") or "")
    size = meta.find(".//original_size")
    wh = None
    if size is not None:
        wh = number(size.findtext("width"), "original_size"), number(size.findtext("height"), "original_size")
    return _Task(Path(source.replace("\\", "/")).name, wh, max(int(step[1]), 1) if step else 1, len(found))


def _add_image(image: Element, read: _Read) -> None:
    """Raises WrongValue."""
    name = image.get("name") or ""
    part = part_of_name(image.get("subset") or "")
    if not name:
        raise WrongValue("an image has no name")
    if part == UNUSED:
        read.left_out.note("pictures are of a test split", name)
        return
    size = None
    if image.get("width") and image.get("height"):
        size = number(image.get("width"), "width"), number(image.get("height"), "height")
    footage = Footage(name, "picture", part=part)
    for shape in image:
        corners = _corners(shape, read.left_out, name)
        if corners is not None:
            track = next((value for key, value in _attributes(shape) if key == "track_id"), None)
            box = SeenBox(corners, shape.get("label") or "", _attributes(shape), size, track=track)
            footage.boxes.append(box)
    read.pictures.append(footage)


def _of_video(read: _Read) -> list[Footage]:
    """The pictures; those that are frames of the task's video as frames of that."""
    numbered = [_VIDEO_FRAME.fullmatch(Path(footage.name).name) for footage in read.pictures]
    if not read.task.source or not numbered:
        return read.pictures
    numbers = [int(match[1]) for match in numbered if match is not None]
    if len(numbers) < len(numbered):
        return read.pictures
    video = Footage(read.task.source, "video", part=read.pictures[0].part)
    for frame, footage in zip(numbers, read.pictures, strict=True):
        video.pictures[frame] = footage.name
        video.boxes += [replace(box, frame=frame) for box in footage.boxes]
    return [video]


def _add_track(track: Element, read: _Read) -> None:
    """Raises WrongValue."""
    if read.video is None:
        read.video = Footage(read.task.source, "video")
    label, who = track.get("label") or "", track.get("id")
    where = f"track {who}"
    size, step = read.task.size, read.task.step
    shapes = [(whole(shape.get("frame"), "a frame"), shape) for shape in track if shape.get("frame") is not None]
    shapes.sort(key=lambda each: each[0])
    seen: list[tuple[int, Corners, tuple[tuple[str, str], ...]]] = []
    for at, (frame, shape) in enumerate(shapes):
        if shape.get("outside") == "1":
            continue
        corners = _corners(shape, read.left_out, where)
        if corners is None:
            continue
        attributes = _attributes(shape)
        seen.append((frame, corners, attributes))
        if at + 1 < len(shapes):
            later, after = shapes[at + 1]
            gone = after.get("outside") == "1"
            end = corners if gone else _corners(after, LeftOut(), where) or corners
            for between in range(frame + step, later, step):
                share = (between - frame) / (later - frame)
                a, b, c, d = (p + share * (q - p) for p, q in zip(corners, end, strict=True))
                seen.append((between, (a, b, c, d), attributes))
    read.video.boxes += [SeenBox(box, label, given, size, frame, track=who) for frame, box, given in seen]


def _corners(shape: Element, left_out: LeftOut, where: str) -> Corners | None:
    """Raises WrongValue."""
    if shape.tag == "box":
        x1, y1, x2, y2 = (number(shape.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return turned((x1, y1, x2, y2), number(shape.get("rotation") or 0, "rotation"))
    if shape.tag == "polygon":
        pairs = [each.split(",") for each in (shape.get("points") or "").split(";") if each]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise WrongValue("a polygon's points are no pairs of numbers")
        return around_points([(number(x, "points"), number(y, "points")) for x, y in pairs])
    if shape.tag in _OTHER_SHAPES:
        left_out.note(f"shapes are of the kind {shape.tag}, which is no box", where)
    return None


def _attributes(shape: Element) -> tuple[tuple[str, str], ...]:
    return tuple((each.get("name") or "", (each.text or "").strip()) for each in shape.iter("attribute"))
