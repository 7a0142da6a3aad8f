"""The pictures of an export as a set of pictures (trainer.data.pictures)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stmixer.media.errors import MediaError
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.trainer.data.check import read_picture
from stmixer.trainer.data.records import Part
from stmixer.trainer.data.set_folder import Row, write_csv
from stmixer.trainer.errors import writing
from stmixer.trainer.imports.export import Footage, LeftOut
from stmixer.trainer.imports.media_files import MediaFiles
from stmixer.trainer.imports.options import ImportOptions
from stmixer.trainer.imports.placed import inner_name, put
from stmixer.trainer.imports.preview import save_preview
from stmixer.trainer.imports.shapes import cut

PREVIEWS = 30
"""Pictures that are shown with their boxes, at most."""

_IMAGES = ("image", "split", "width", "height", "note")
_BOXES = ("image", "x1", "y1", "x2", "y2", "label", "posture", "crowd", "origin")


def write_stills(
    footage: Sequence[Footage],
    media: MediaFiles,
    out: Path,
    options: ImportOptions,
    left_out: LeftOut,
    progress: Callable[[str], None],
) -> list[str]:
    """The set, in words; nothing where no picture can be used. Raises TrainError."""
    images: dict[str, tuple[Footage, tuple[int, int]]] = {}
    boxes: list[Row] = []
    for one in footage:
        progress(one.name)
        path, name = media.picture(one.name), inner_name(one.name)
        if path is None:
            where = ", ".join(map(str, media.roots))
            left_out.note(f"pictures are not found below {where} (--media names another folder)", one.name)
            continue
        if name in images:
            left_out.note("pictures are listed a second time", one.name)
            continue
        if not one.boxes and not options.nobody:
            left_out.note("pictures have no box (--nobody takes them for pictures in which nobody is)", one.name)
            continue
        try:
            rgb = read_picture(path)
            size = rgb.shape[1], rgb.shape[0]
            input_size(*size, 256, 256 * MAX_ASPECT)
        except MediaError as error:
            left_out.note(f"pictures cannot be used ({error.code})", one.name)
            continue
        rows = _rows(one, name, size, options, left_out)
        if rows is None or (one.boxes and not rows and not options.nobody):
            continue
        images[name] = (one, size)
        boxes += rows
        with writing(out):
            put(path, out / "images" / name, copy=options.copy, force=options.force)
            if rows and len(images) <= PREVIEWS:
                save_preview(out / "previews" / f"{name}.jpg", rgb, rows, 1)
    if not images:
        return []
    parts = _parts({name: one for name, (one, _) in images.items()}, options)
    with writing(out):
        listed = [(name, parts[name], *size, "imported") for name, (_, size) in images.items()]
        write_csv(out / "images.csv", _IMAGES, listed)
        write_csv(out / "boxes.csv", _BOXES, boxes)
    labels = Counter(str(row[5]) for row in boxes if row[5])
    named = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
    val = sum(part == "val" for part in parts.values())
    return [f"wrote {out}: {len(images)} pictures ({val} for validation), {len(boxes)} rows; labels: {named or 'none'}"]


def _rows(
    one: Footage, name: str, size: tuple[int, int], options: ImportOptions, left_out: LeftOut
) -> list[Row] | None:
    """A row for each box and label; None of a picture whose boxes are counted in another shape than it has."""
    rows: list[Row] = []
    for box in one.boxes:
        labels = options.naming.labels(box)
        if labels is None:
            left_out.note(f"boxes are of {box.label}", name)
            continue
        wide, high = box.size_wh or size
        if box.size_wh is not None and wide > 1 and abs(wide / high - size[0] / size[1]) > 0.02 * size[0] / size[1]:
            left_out.note("pictures have another shape than the export says (turned, by their EXIF data?)", name)
            return None
        x1, y1, x2, y2 = box.xyxy
        corners = cut((x1 / wide, y1 / high, x2 / wide, y2 / high), left_out, name)
        if corners is not None:
            for label in [""] if box.crowd else labels or ("",):
                rows.append((name, *corners, label, "unknown", int(box.crowd), options.origin))
    return rows


def _parts(images: Mapping[str, Footage], options: ImportOptions) -> dict[str, Part]:
    """As the export or ``val`` says; of the others the last fifth by name, since neighbours look alike."""
    known: dict[str, Part] = {}
    for name, one in images.items():
        if {name, one.name, Path(name).parent.as_posix()} & set(options.val):
            known[name] = "val"
        elif options.val or one.part is not None:
            known[name] = one.part or "train"
    others = sorted(name for name in images if name not in known)
    for i, name in enumerate(others):
        known[name] = "val" if i >= len(others) - len(others) // 5 else "train"
    return known
