"""Which tool's form a file or folder is in, and its reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import is_zipfile

from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.imports.ava_table import is_ava, read_ava_tables
from stmixer.trainer.imports.coco import is_coco, read_coco
from stmixer.trainer.imports.cvat import is_cvat, read_cvat
from stmixer.trainer.imports.export import Export
from stmixer.trainer.imports.json_values import read_json
from stmixer.trainer.imports.via import is_via, is_via_2, is_via_csv, read_via
from stmixer.trainer.imports.yolo import names_file, read_yolo

FORMS = "COCO (JSON, of videos or pictures), CVAT 1.1 (XML), VIA 3 (JSON or CSV), YOLO (a folder), AVA's csv"

_TABLES = (".xml", ".json", ".csv")
_LOOKED_INTO = (".", "annotations")
"""Folders of a folder in which tables lie."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Of AVA's csv: the list of labels, and the second that files begin with."""

    labels: Path | None = None
    start_s: float = 0.0


def read_export(sources: Sequence[Path], options: TableOptions) -> Export:
    """What the sources hold, which all have to be of one form.

    Raises:
        TrainError: a source that is missing or is none of FORMS; sources of several forms; an export that cannot be
            read.
    """
    readers: dict[str, list[Path]] = {}
    for source in sources:
        for path in _tables(source):
            readers.setdefault(_form(path), []).append(path)
    if len(readers) > 1:
        told = "; ".join(f"{paths[0]} is {form}" for form, paths in readers.items())
        raise TrainError(f"these are of several forms, import one after the other: {told}")
    form, paths = next(iter(readers.items()))
    made: dict[str, Callable[[Sequence[Path]], Export]] = {
        "COCO": read_coco,
        "CVAT": read_cvat,
        "VIA": read_via,
        "YOLO": lambda files: read_yolo(files[0]),
        "AVA": partial(read_ava_tables, labels=options.labels, start_s=options.start_s),
    }
    if form == "YOLO" and len(paths) > 1:
        raise TrainError(f"{paths[0].parent} and {paths[1].parent} are two YOLO folders; import one after the other")
    return made[form](paths)


def _tables(source: Path) -> list[Path]:
    """The files that say something: of a folder those that lie where tools put them. Raises TrainError."""
    if not source.exists():
        raise TrainError(f"{source} does not exist")
    if source.is_file():
        return [source]
    if (names := names_file(source)) is not None:
        return [names]
    with reading(source):
        places = [source / place for place in _LOOKED_INTO if (source / place).is_dir()]
        files = sorted(path for place in places for path in place.iterdir() if path.suffix.lower() in _TABLES)
    found = [path for path in files if path.is_file() and _form_or_none(path) is not None]
    if not found:
        raise TrainError(f"{source} holds none of what can be read: {FORMS}")
    return found


def _form(path: Path) -> str:
    """Raises TrainError."""
    if path.suffix.lower() not in (".yaml", ".yml", ".names", ".txt", *_TABLES) and is_zipfile(path):
        raise TrainError(f"{path} is a zip archive; unpack it, and name the folder")
    found = _form_or_none(path)
    if found is None:
        raise TrainError(f"{path} is none of what can be read: {FORMS}")
    return found


def _form_or_none(path: Path) -> str | None:
    """Raises TrainError for a file that cannot be read, or whose ending is wrong."""
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml", ".names", ".txt"):
        return "YOLO"
    if suffix == ".xml":
        return "CVAT" if is_cvat(path) else None
    if suffix == ".csv":
        return "VIA" if is_via_csv(path) else "AVA" if is_ava(path) else None
    if suffix != ".json":
        return None
    values = read_json(path)
    if is_via_2(values):
        raise TrainError(f"{path} is a project of VIA 2; open it in VIA 3 and save it there, or export it as COCO")
    return "VIA" if is_via(values) else "COCO" if is_coco(values) else None
