"""An export as a set: a custom set of its videos, a set of pictures of its stills (docs/data.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmixer.trainer.data.set_folder import make_writable
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.imports.export import Export, Footage
from stmixer.trainer.imports.media_files import MediaFiles
from stmixer.trainer.imports.options import ImportOptions
from stmixer.trainer.imports.sequences import as_sequences
from stmixer.trainer.imports.stills import write_stills
from stmixer.trainer.imports.videos import VideoSet


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it: lines for people, and the sets' folders, each with its kind in a run."""

    lines: list[str]
    sets: list[tuple[str, Path]]


def import_export(
    export: Export,
    media: MediaFiles,
    out: Path,
    options: ImportOptions,
    progress: Callable[[str], None] = lambda name: None,
) -> Imported:
    """Write what an export says as a set, or as two where it has videos and stills: the latter's folder is called
    ``OUT_pictures`` then.

    Raises:
        TrainError: nothing of it can be used, or a folder does not take it or holds a set.
    """
    footage = as_sequences(export.footage) if options.sequences else export.footage
    stills = [one for one in footage if one.kind == "picture"]
    moving = [one for one in footage if one.kind != "picture"]
    pictures = out.with_name(f"{out.name}_pictures") if stills and moving else out
    for folder in ([out] if moving else []) + ([pictures] if stills else []):
        _prepare(folder, force=options.force)
    told, sets = list[str](), list[tuple[str, Path]]()
    if moving:
        told += VideoSet(out, media, options, export.left_out).write(moving, progress)
        sets += [("custom", out)] if told else []
    if stills and (more := write_stills(stills, media, pictures, options, export.left_out, progress)):
        told += more
        sets.append(("pictures", pictures))
    left_out = export.left_out.lines()
    if not sets:
        raise TrainError([f"nothing of this {export.form} export can be used:", *left_out])
    return Imported([f"read {export.form}: {_counted(footage)}", *export.notes, *left_out, *told], sets)


def _counted(footage: Sequence[Footage]) -> str:
    kinds = Counter(one.kind for one in footage)
    names = {"video": "videos", "frames": "sequences of pictures", "picture": "pictures"}
    found = ", ".join(f"{names[kind]} {count}" for kind, count in kinds.items())
    return f"{found or 'no footage'}, boxes {sum(len(one.boxes) for one in footage)}"


def _prepare(out: Path, *, force: bool) -> None:
    """Before hours of work. Raises TrainError."""
    there = [name for name in ("boxes.csv", "videos.csv", "images.csv") if (out / name).exists()]
    if there and not force:
        raise TrainError(f"{out} holds {' and '.join(there)}, perhaps corrected: name another folder, or add --force")
    with writing(out):
        make_writable(out)
