"""Where results of ``stmixer detect`` go: one file of one video, one file of all, or a folder with a file each."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

from stmixer.service.errors import InputError, StartError
from stmixer.service.offline.inputs import Input
from stmixer.service.schemas import COLUMNS, DetectResponse

OF_ONE = (".json", ".mp4", ".jpg", ".png")
OF_ALL = (".jsonl", ".csv")
DRAWN = (".mp4", ".jpg", ".png")


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Input]) -> None:
    """Whether results can go there. Raises InputError."""
    for path in outputs:
        if is_folder(path):
            continue
        if path.suffix not in OF_ONE + OF_ALL:
            raise InputError(
                "bad_option", f"-o {path}: the name must end in .json or .mp4, in .jsonl or .csv, or be a folder's"
            )
        if not path.parent.is_dir():
            raise InputError("unwritable", f"the folder of -o {path} does not exist")
        if path.suffix in OF_ONE and len(inputs) > 1:
            raise InputError(
                "bad_option",
                f"-o {path} holds the results of one, and there are {len(inputs)}: take .jsonl, .csv or a folder",
            )
        if path.suffix == ".mp4" and any(item.kind == "picture" for item in inputs):
            raise InputError("bad_option", f"-o {path}: a picture is drawn upon as .jpg or .png")
        if path.suffix in (".jpg", ".png") and any(item.kind == "video" for item in inputs):
            raise InputError("bad_option", f"-o {path}: a video is drawn upon as .mp4")
        if path.exists() and any(item.kind != "url" and path.samefile(item.path) for item in inputs):
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


def write_json(path: Path, response: DetectResponse) -> None:
    """Complete or not at all. Raises StartError."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(response.model_dump(), indent=1) + "\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> StartError:
    """What is said when a disk does not take results."""
    return StartError("unwritable", f"{path} cannot be written: {error.strerror or error}")


class Table:
    """A ``.jsonl`` or ``.csv`` file of all results, written one input after the other. Raises StartError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: TextIO = path.open("w", encoding="utf-8", newline="")
            self._rows = csv.writer(self._file) if path.suffix == ".csv" else None
            if self._rows is not None:
                self._rows.writerow(("source", *COLUMNS))
        except OSError as error:
            raise unwritable(path, error) from None

    def add(self, name: str, response: DetectResponse) -> None:
        """One video's results."""
        try:
            for result in response.keyframes:
                if self._rows is None:
                    self._file.write(json.dumps({"source": name} | result.model_dump()) + "\n")
                else:
                    self._rows.writerows((name, *row) for row in result.rows())
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from None

    def close(self) -> None:
        """No more will come."""
        try:
            self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from None
