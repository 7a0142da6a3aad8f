"""COCO's JSON, of videos and of pictures: ``images``, ``annotations``, ``categories`` and perhaps ``videos``.

Boxes are x, y, width and height in px. Four ways of saying which image is which frame of what are in use, and all are
read: ``video_id`` with ``frame_id`` (CocoVID of MMTracking) or ``frame_index`` (TAO), a ``videos`` entry with
``file_names`` whose annotations have ``bboxes`` for all frames (YouTube-VIS), and images without a video. Who it is
stands in ``instance_id``, ``track_id`` or an attribute of that name (CVAT, Datumaro).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stmixer.trainer.errors import TrainError
from stmixer.trainer.imports.export import Export, Footage, LeftOut, SeenBox
from stmixer.trainer.imports.json_values import (
    WrongValue,
    key_of,
    mapping,
    number,
    numbers,
    read_json,
    rows,
    text,
    whole,
)
from stmixer.trainer.imports.parts import of_a_part

Json = Mapping[str, Any]
Size = tuple[float, float]

_FRAME_KEYS = ("frame_id", "frame_index", "frame_idx")
_TRACK_KEYS = ("instance_id", "track_id")

RATES = (0.1, 1000.0)
"""Frames per second that a video may have."""


def is_coco(values: object) -> bool:
    """Whether a file's content is of this form."""
    return isinstance(values, dict) and "annotations" in values and ("images" in values or "videos" in values)


def read_coco(paths: Iterable[Path]) -> Export:
    """One or more files, whose names may say the split. Raises TrainError."""
    footage: list[Footage] = []
    left_out = LeftOut()
    for path, part in of_a_part(paths, left_out):
        try:
            found = _read(mapping(read_json(path), str(path)), left_out)
        except WrongValue as error:
            raise TrainError(f"{path} is no COCO as we read it: {error}") from None
        for each in found:
            each.part = part
        footage += found
    return Export("COCO", footage, left_out)


def _read(values: Json, left_out: LeftOut) -> list[Footage]:
    names = {}
    for category in rows(values, "categories"):
        names[key_of(category, "id")] = text(category.get("name"), "a category's name")
    videos: dict[object, Footage] = {}
    listed: dict[object, list[str]] = {}
    sizes: dict[object, Size | None] = {}
    for video in rows(values, "videos"):
        key = key_of(video, "id")
        files = video.get("file_names") or []
        if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
            raise WrongValue("a video's file_names are no list of names")
        called = video.get("name") or video.get("file_name") or (Path(files[0]).parent.name if files else key)
        name = text(called, "a video")
        videos[key] = Footage(name, "frames", fps=_rate(video))
        listed[key], sizes[key] = files, _size(video)
        videos[key].pictures.update(enumerate(files))
    places = _images(values, videos)
    for annotation in rows(values, "annotations"):
        where = f"annotation {annotation.get('id')}"
        label = names.get(key_of(annotation, "category_id"))
        if label is None:
            left_out.note("annotations name a category that is not listed", where)
        elif "bboxes" in annotation:
            _add_track(annotation, label, videos, sizes, left_out, where)
        else:
            _add_box(annotation, label, places, left_out, where)
    pictures = [footage for footage, _, _ in places.values() if footage.kind == "picture"]
    return [*videos.values(), *pictures]


def _images(values: Json, videos: Mapping[object, Footage]) -> dict[object, tuple[Footage, int | None, Size | None]]:
    """Each image's footage, its frame there, and its size. Raises WrongValue."""
    places: dict[object, tuple[Footage, int | None, Size | None]] = {}
    counted: dict[object, int] = {}
    for image in rows(values, "images"):
        name = text(image.get("file_name"), "an image's file_name")
        key = key_of(image, "video_id")
        video = None if key is None else videos.get(key)
        if video is None:
            places[key_of(image, "id")] = (Footage(name, "picture"), None, _size(image))
            continue
        said = next((image[key] for key in _FRAME_KEYS if image.get(key) is not None), None)
        frame = counted.get(key, 0) if said is None else whole(said, "an image's frame")
        counted[key] = frame + 1
        video.pictures[frame] = name
        places[key_of(image, "id")] = (video, frame, _size(image))
    return places


def _add_box(
    annotation: Json,
    label: str,
    places: Mapping[object, tuple[Footage, int | None, Size | None]],
    left_out: LeftOut,
    where: str,
) -> None:
    place = places.get(key_of(annotation, "image_id"))
    if place is None:
        left_out.note("annotations name an image that is not listed", where)
        return
    footage, frame, size = place
    box = annotation.get("bbox")
    if not box:
        left_out.note("annotations have no box (bbox)", where)
        return
    try:
        x, y, width, height = numbers(box, 4, "bbox")
    except WrongValue as error:
        left_out.note(f"annotations have a box that is none ({error})", where)
        return
    attributes = _attributes(annotation)
    given = {**dict(attributes), **annotation}
    track = next((str(given[key]) for key in _TRACK_KEYS if given.get(key) is not None), None)
    crowd = annotation.get("iscrowd") in (1, True)
    corners = (x, y, x + width, y + height)
    footage.boxes.append(SeenBox(corners, label, attributes, size, frame, track=track, crowd=crowd))


def _add_track(
    annotation: Json,
    label: str,
    videos: Mapping[object, Footage],
    sizes: Mapping[object, Size | None],
    left_out: LeftOut,
    where: str,
) -> None:
    """YouTube-VIS: an annotation is one person in all of a video's frames, with nothing where they are not seen."""
    key = key_of(annotation, "video_id")
    video, boxes = videos.get(key), annotation["bboxes"]
    if video is None or not isinstance(boxes, list):
        left_out.note("annotations name a video that is not listed", where)
        return
    attributes, track = _attributes(annotation), str(annotation.get("id"))
    for frame, box in enumerate(boxes):
        if not box:
            continue
        try:
            x, y, width, height = numbers(box, 4, "bboxes")
        except WrongValue as error:
            left_out.note(f"annotations have a box that is none ({error})", where)
            continue
        crowd = annotation.get("iscrowd") in (1, True)
        corners = (x, y, x + width, y + height)
        video.boxes.append(SeenBox(corners, label, attributes, sizes[key], frame, track=track, crowd=crowd))


def _attributes(annotation: Json) -> tuple[tuple[str, str], ...]:
    given = annotation.get("attributes")
    if not isinstance(given, dict):
        return ()
    return tuple(
        (str(name), str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in given.items()
        if isinstance(value, str | int | float)
    )


def _rate(video: Json) -> float | None:
    """Raises WrongValue."""
    if video.get("fps") is None:
        return None
    fps = number(video["fps"], "fps")
    if not RATES[0] <= fps <= RATES[1]:
        raise WrongValue(f"fps {fps:g} is none of a video")
    return fps


def _size(owner: Json) -> Size | None:
    """Width and height, where both are told. Raises WrongValue."""
    if owner.get("width") is None or owner.get("height") is None:
        return None
    size = number(owner["width"], "width"), number(owner["height"], "height")
    return size if min(size) > 0 else None
