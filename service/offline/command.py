"""``stmixer detect`` over whatever it was given: each input's results, where they go, and what went wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

import httpx

from stmixer.media.annotated import banner, drawn, write_annotated
from stmixer.media.draw import draw_actors
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.picture import read_picture, write_picture
from stmixer.service.errors import InputError, StmixerError
from stmixer.service.offline.engine import DetectedKeyframe
from stmixer.service.offline.file import FileResults
from stmixer.service.offline.inputs import Input
from stmixer.service.offline.outputs import (
    DRAWN,
    MOT,
    OF_ALL,
    Table,
    form_of,
    is_folder,
    place_in,
    read_json,
    unwritable,
    videos_of,
    write_json,
    write_mot,
)
from stmixer.service.offline.stream import FrameStream
from stmixer.service.schemas import DetectOptions, DetectResponse
from stmixer.service.worker.runner import Runner

log = logging.getLogger("stmixer")

Advance = Callable[[float, float | None], None]
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they would tell whole addresses, passwords and all


class Bar(Protocol):
    """Makes a progress bar for a text: told what is done and, if known, how much there is, in that unit."""

    def __call__(self, text: str, /, unit: str = ...) -> AbstractContextManager[Advance]: ...


class DetectCommand:
    """The model, and what is wanted of it.

    Args:
        outputs: as ``outputs.check_outputs`` has let pass.
        on_response: told of every input's results, whether they go into a file or not.
    """

    def __init__(
        self,
        runner: Runner,
        options: DetectOptions,
        outputs: Sequence[Path],
        *,
        batch_size: int,
        explain: Path | None,
        bar: Bar,
        on_response: Callable[[Input, DetectResponse], None],
    ) -> None:
        self._runner, self._options, self._batch_size = runner, options, batch_size
        self._explain, self._bar, self._on_response = explain, bar, on_response
        self._folders = [path for path in outputs if is_folder(path)]
        self._tables = [path for path in outputs if form_of(path) in OF_ALL and not path.is_dir()]
        self._files = [path for path in outputs if path not in self._folders + self._tables]

    def run(self, inputs: Sequence[Input]) -> list[tuple[Input, StmixerError | MediaError]]:
        """All of them, one after the other; those that could not be used, and why.

        What has this model's results by these options in every folder of the outputs already is not looked at again, so
        that a run that was ended goes on; tables get those. A single input's error, or one of writing, is raised
        instead.
        """
        failed: list[tuple[Input, StmixerError | MediaError]] = []
        with ExitStack() as stack:
            tables = [Table(path, self._options.keyframe_hz) for path in self._tables]
            for table in tables:
                stack.callback(table.close)
            videos = videos_of(inputs) if tables else {}
            found = {item for item in inputs if self._is_found(item, inputs)}
            done = {item for item in found if self._is_alike(item, inputs)}
            if done:
                log.info("%d of %d have their results already", len(done), len(inputs))
            if len(found) > len(done):
                told = "%d have results of another model or by other options, and are looked at again"
                log.warning(told, len(found) - len(done))
            number, todo = 0, len(inputs) - len(done)
            for item in inputs:
                try:
                    if item in done:
                        self._again(item, inputs, tables, videos)
                        continue
                    number += 1
                    text = item.file_name if todo == 1 else f"{number}/{todo} {item.file_name}"
                    self._one(item, inputs, text, tables, videos)
                except (InputError, MediaError) as error:
                    if len(inputs) == 1:
                        raise
                    log.error("%s: %s (%s)", item.name, error, error.code)
                    failed.append((item, error))
        return failed

    def _is_found(self, item: Input, inputs: Sequence[Input]) -> bool:
        """Only what goes into folders can be there from an earlier run."""
        if not self._folders or self._files:
            return False
        return all(place_in(folder, item, inputs).is_file() for folder in self._folders)

    def _is_alike(self, item: Input, inputs: Sequence[Input]) -> bool:
        """Whether this run would find the same, as far as results tell: older files have no ``options``. What is no
        results is left alone."""
        for folder in self._folders:
            try:
                file = read_json(place_in(folder, item, inputs))
            except InputError:
                continue
            if file.model != self._runner.card.name:
                return False
            if file.options is not None and _effective(file.options) != _effective(self._options):
                return False
        return True

    def _again(
        self, item: Input, inputs: Sequence[Input], tables: Sequence[Table], videos: Mapping[Input, str]
    ) -> None:
        """What an earlier run found goes into this one's tables. Raises InputError where the folder has no results."""
        if tables:
            found = read_json(place_in(self._folders[0], item, inputs))
            for table in tables:
                table.add(item.name, videos[item], found)

    def _one(
        self, item: Input, inputs: Sequence[Input], text: str, tables: Sequence[Table], videos: Mapping[Input, str]
    ) -> None:
        with self._fetched(item, text) as path:
            response = self._of_picture(path) if item.kind == "picture" else self._of_video(path, text)
            for warning in response.warnings:
                log.warning("%s%s", "" if len(inputs) == 1 else f"{item.name}: ", warning)
            for table in tables:
                table.add(item.name, videos[item], response)
            for target in self._files + [place_in(folder, item, inputs) for folder in self._folders]:
                if target.suffix in DRAWN:
                    self._draw(path, target, response)
                elif form_of(target) == MOT:
                    write_mot(target, response)
                else:
                    # a later run looks into folders, and has to know whether it would find the same
                    write_json(target, response, None if target in self._files else self._options)
                people = sum(len(result.actors) for result in response.keyframes)
                log.info("%d keyframes, %d actors → %s", len(response.keyframes), people, target)
        self._on_response(item, response)

    @contextlib.contextmanager
    def _fetched(self, item: Input, text: str) -> Iterator[Path]:
        """The file, brought here while it is needed if it lies elsewhere."""
        if item.kind != "url":
            yield item.path
            return
        with tempfile.TemporaryDirectory(prefix="stmixer-") as folder:
            path = Path(folder, "video")
            with self._bar(f"fetching {text}", "MiB") as advance:
                _fetch(item, path, advance)
            yield path

    def _of_video(self, path: Path, text: str) -> DetectResponse:
        explainer = None if self._explain is None else _explainer(self._explain)
        with self._bar(text) as advance:
            results = FileResults(
                self._runner, path, self._options, batch_size=self._batch_size, progress=advance, on_detected=explainer
            )
            keyframes = list(results)
        card = self._runner.card
        return DetectResponse(
            model=card.name,
            trained=card.trained,
            frame=results.frame,
            keyframes=keyframes,
            summary=results.summary,
            warnings=results.warnings,
        )

    def _of_picture(self, path: Path) -> DetectResponse:
        """A video of one frame."""
        pixels = read_picture(path)
        with FrameStream(self._runner, self._options) as stream:
            keyframes = [*stream.feed(pixels, 0), *stream.end()]
            frame = stream.frame
            assert frame is not None
        card = self._runner.card
        return DetectResponse(
            model=card.name,
            trained=card.trained,
            frame=frame,
            keyframes=keyframes,
            summary=stream.summary,
            warnings=stream.warnings,
        )

    def _draw(self, path: Path, target: Path, response: DetectResponse) -> None:
        try:
            if target.suffix == ".mp4":
                with self._bar("drawing") as advance:
                    write_annotated(
                        path, target, response.keyframes, trained=response.trained, limits=Limits.unlimited(),
                        progress=advance,
                    )  # fmt: skip
            else:
                actors = [actor for result in response.keyframes for actor in result.actors]
                write_picture(target, draw_actors(read_picture(path), drawn(actors), banner=banner(response.trained)))
        except OSError as error:
            raise unwritable(target, error) from None


def _effective(options: DetectOptions) -> DetectOptions:
    """Without what stands for others of them, or for the model."""
    return options.model_copy(update={"preset": None, "model": None})


def _explainer(folder: Path) -> Callable[[DetectedKeyframe], None]:
    from stmixer.service.offline.explain import write_explanation  # its sampling points are PyTorch's

    return lambda keyframe: log.info("→ %s", write_explanation(keyframe, folder))


def _fetch(item: Input, path: Path, advance: Advance) -> None:
    """Raises InputError ``not_found`` for what does not come."""
    name = item.name
    try:
        with httpx.stream("GET", item.place, follow_redirects=True, timeout=30) as answer, path.open("wb") as file:
            answer.raise_for_status()
            length = answer.headers.get("content-length", "")
            whole = float(length) / 2**20 if length.isdecimal() else None
            for piece in answer.iter_bytes():
                file.write(piece)
                advance(file.tell() / 2**20, whole)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise InputError("not_found", f"{name} was answered with {status} {error.response.reason_phrase}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError("not_found", f"{name} cannot be fetched: {error or type(error).__name__}") from None
    except OSError as error:
        raise InputError("not_found", f"{name} cannot be kept: {os.strerror(error.errno or 0)}") from None
