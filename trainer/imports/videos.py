"""The videos of an export, and its sequences of pictures, as a custom set (trainer.data.custom)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stmixer.media.errors import MediaError
from stmixer.trainer.annotate.label import split_part
from stmixer.trainer.data.records import Part
from stmixer.trainer.data.set_folder import BOX_COLUMNS, VIDEO_COLUMNS, Row, rate_text, write_csv
from stmixer.trainer.errors import writing
from stmixer.trainer.imports.export import Footage, LeftOut, SeenBox
from stmixer.trainer.imports.media_files import MediaFiles
from stmixer.trainer.imports.options import ImportOptions
from stmixer.trainer.imports.placed import PlacedVideo, inner_name, make_video, place_video
from stmixer.trainer.imports.preview import write_preview
from stmixer.trainer.imports.shapes import cut

RATE = 25.0
"""Frames per second of a sequence where nothing says it."""

_BOXES = (*BOX_COLUMNS, "crowd")


@dataclass(slots=True)
class VideoSet:
    """A custom set in the making.

    Attributes:
        notes: what a reader of the result should know.
    """

    out: Path
    media: MediaFiles
    options: ImportOptions
    left_out: LeftOut
    notes: list[str] = field(default_factory=list)
    _placed: list[PlacedVideo] = field(default_factory=list)
    _rows: dict[str, list[Row]] = field(default_factory=dict)

    def write(self, footage: Sequence[Footage], progress: Callable[[str], None]) -> list[str]:
        """Put all of it into the folder; what was written, in words, or nothing where no video can be used.

        Raises:
            TrainError: the folder does not take it.
        """
        for one in footage:
            progress(one.name)
            if not any(self.options.naming.labels(box) is not None for box in one.boxes):
                self.left_out.note("videos have no box of a person", one.name)
                continue
            try:
                with writing(self.out):
                    self._add(one)
            except MediaError as error:
                self.left_out.note(f"videos cannot be used ({error})", one.name)
        if not self._placed:
            return []
        parts = self._parts()
        videos = [self._video_row(video, parts[video.name]) for video in self._placed]
        boxes = [row for video in self._placed for row in self._rows[video.name]]
        with writing(self.out):
            write_csv(self.out / "boxes.csv", _BOXES, boxes)
            write_csv(self.out / "videos.csv", VIDEO_COLUMNS, videos)
        return self._told(parts, boxes)

    def _told(self, parts: dict[str, Part], boxes: Sequence[Row]) -> list[str]:
        labels = Counter(str(row[6]) for row in boxes if row[6])
        named = ", ".join(f"{label} {count}" for label, count in sorted(labels.items())) or "none"
        val = sum(part == "val" for part in parts.values())
        lines = [
            *self.notes,
            f"wrote {self.out}: {len(parts)} videos ({val} for validation), {len(boxes)} rows; labels: {named}",
        ]
        if not labels:
            lines.append("no box says what somebody does: name the attribute that does (--attribute), or fill in label")
        if val in (0, len(parts)):
            lines.append("all videos are of one part: say which are for validation with --val NAME, or in videos.csv")
        return lines

    def _add(self, one: Footage) -> None:
        """A video, if its files are there and one of its boxes is on a frame of it. Raises MediaError, OSError."""
        video = self._place(one)
        if video is None:
            return
        try:
            found = self._rows_of(video)
            if found:
                write_preview(self.out, video, found)
                self._placed.append(video)
                self._rows[video.name] = found
            else:
                self.left_out.note("videos have no box on any of their frames", one.name)
        finally:
            if video.own and video.name not in self._rows:
                (self.out / "videos" / video.name).unlink(missing_ok=True)

    def _place(self, one: Footage) -> PlacedVideo | None:
        """None where its files are not found. Raises MediaError, OSError."""
        folder, force = self.out / "videos", self.options.force
        found = {number: self.media.picture(name) for number, name in one.pictures.items()}
        pictures = {number: path for number, path in found.items() if path is not None}
        if (one.kind == "video" or not pictures) and (path := self.media.video(one.name)) is not None:
            whole = Path(one.name).suffix.lower() == path.suffix.lower()
            name = self._free(inner_name(one.name) if whole else inner_name(one.name, path.suffix))
            return place_video(one, path, folder, name, copy=self.options.copy, force=force)
        if not one.pictures and one.kind == "video":
            pictures = self.media.numbered_frames()
        if not pictures:
            where = ", ".join(map(str, self.media.roots))
            self.left_out.note(f"videos are not found below {where} (--media names another folder)", one.name)
            return None
        for number, path in found.items():
            if path is None:
                self.left_out.note("pictures of a sequence are not found", one.pictures[number])
        rate = self.options.fps or one.fps
        if rate is None:
            note = f"a sequence that does not say how fast it is has {RATE:g} pictures a second (--fps says another)"
            self.notes += [] if note in self.notes else [note]
        name = self._free(inner_name(one.name, ".mp4"))
        return make_video(one, pictures, rate or RATE, folder, name, self.left_out, force=force)

    def _free(self, name: str) -> str:
        """The name, with a number where another video has it."""
        path, number = Path(name), 2
        while name in self._rows:
            name, number = path.with_name(f"{path.stem}_{number}{path.suffix}").as_posix(), number + 1
        return name

    def _parts(self) -> dict[str, Part]:
        """As ``val`` or the export says; of the others every fifth is for validation."""
        known: dict[str, Part] = {}
        for video in self._placed:
            own = {video.name, Path(video.name).stem, video.footage.name}
            if own & set(self.options.val):
                known[video.name] = "val"
            elif self.options.val or video.footage.part is not None:
                known[video.name] = video.footage.part or "train"
        others = sorted(video.name for video in self._placed if video.name not in known)
        return known | {name: split_part(i, len(others)) for i, name in enumerate(others)}

    @staticmethod
    def _video_row(video: PlacedVideo, part: Part) -> Row:
        return (video.name, part, rate_text(video.fps), len(video.times_us), *video.size_wh, "imported")

    def _rows_of(self, video: PlacedVideo) -> list[Row]:
        """A row for each box and label, by frame."""
        numbers: dict[str, int] = {}
        rows: list[tuple[int, Row]] = []
        for box in video.footage.boxes:
            labels, frame = self.options.naming.labels(box), video.frame(box)
            at = f"frame {box.frame}" if box.frame is not None else f"second {box.second:g}"
            where = f"{video.name}, {at}"
            if labels is None:
                self.left_out.note(f"boxes are of {box.label}", where)
                continue
            if frame is None:
                self.left_out.note(f"boxes {_beyond(video, box)}", where)
                continue
            corners = cut(video.shares(box), self.left_out, where)
            if corners is None:
                continue
            track: object = "" if box.track is None else numbers.setdefault(box.track, len(numbers))
            for label in ("",) if box.crowd else labels or ("",):
                rows.append((frame, (video.name, frame, *corners, label, track, self.options.origin, int(box.crowd))))
        return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _beyond(video: PlacedVideo, box: SeenBox) -> str:
    if box.frame is not None:
        return "are of frames that the video does not have"
    end_s = float(video.times_us[-1]) / 1e6
    return f"come after the video's end at {end_s:.1f} s (--start-s says with which second its file begins)"
