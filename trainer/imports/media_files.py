"""Where the videos and pictures lie that an export names: by its path, else by the end of it that only one file has."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from stmixer.trainer.annotate.label import SUFFIXES
from stmixer.trainer.errors import reading

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_FRAME = re.compile(r"frame_(\d+)")


class MediaFiles:
    """The files below some folders, looked through once.

    Args:
        roots: the folders.
        leave_out: a folder in them that is not looked into: where the result goes.

    Raises:
        TrainError: a folder that cannot be read.
    """

    def __init__(self, roots: Sequence[Path], leave_out: Path) -> None:
        self.roots = tuple(dict.fromkeys(root.absolute() for root in roots))
        out = leave_out.absolute()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for root in self.roots:
            with reading(root):
                files = sorted(root.rglob("*"))
            for path in files:
                suffix = path.suffix.lower()
                if suffix in SUFFIXES | PICTURES and out not in path.parents and path.is_file():
                    self._by_name[path.name].append(path)
                    self._by_stem[path.stem].append(path)

    def video(self, name: str) -> Path | None:
        """A video's file; the name may lack its ending, as AVA's and YOLO's do."""
        return self._found(name, SUFFIXES)

    def picture(self, name: str) -> Path | None:
        """A picture's file."""
        return self._found(name, PICTURES)

    def numbered_frames(self) -> dict[int, Path]:
        """The pictures ``frame_000012.png`` of one folder, by number, as CVAT puts them beside what it says of them;
        none where several folders have such."""
        found: dict[int, Path] = {}
        folders = set()
        for stem, paths in self._by_stem.items():
            if match := _FRAME.fullmatch(stem):
                pictures = [path for path in paths if path.suffix.lower() in PICTURES]
                folders |= {path.parent for path in pictures}
                found |= {int(match[1]): path for path in pictures}
        return found if len(folders) == 1 else {}

    def _found(self, name: str, suffixes: Collection[str]) -> Path | None:
        """None where there is none, or where it cannot be told which of several is meant."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        parts = tuple(part for part in wanted.parts if part not in ("/", "..", "."))
        if not parts:
            return None
        whole = wanted.suffix.lower() in suffixes
        candidates = self._by_name[parts[-1]] if whole else self._by_stem[parts[-1]]
        candidates = [path for path in dict.fromkeys(candidates) if path.suffix.lower() in suffixes]
        for length in range(len(parts), 0, -1):
            ending = parts[-length:]
            alike = [path for path in candidates if self._ends(path, ending, whole)]
            if len(alike) == 1:
                return alike[0]
            if alike:
                exact = [path for path in alike if any(path == root.joinpath(*ending) for root in self.roots)]
                return exact[0] if len(exact) == 1 else None
        return None

    @staticmethod
    def _ends(path: Path, ending: tuple[str, ...], whole: bool) -> bool:
        own = path.parts if whole else (*path.parts[:-1], path.stem)
        return own[-len(ending) :] == ending
