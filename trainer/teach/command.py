"""``stmixer teach`` as a command: whatever comes of a lesson is one line, and never a traceback."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stmixer.trainer.config.file import settings_of
from stmixer.trainer.errors import DivergedError, TrainError
from stmixer.trainer.teach.told import JsonTeller, Teller

EXIT_USAGE, EXIT_STOPPED = 2, 130
READS = "stmixer.media.source"
"""What FFmpeg reads through."""
AGAIN_S = 0.02


def run(
    folder: Path,
    output: Path | None,
    weights: Path,
    negatives: Sequence[Path],
    detector: Path | None,
    settings: Sequence[str],
    *,
    json_lines: bool,
) -> int:
    """Teach, and give the exit code: 0, 2 for what somebody has to put right, 130 for Ctrl-C."""
    tell = JsonTeller() if json_lines else Teller()
    output = output or Path(f"{folder.resolve().name}.safetensors")
    try:
        if output.suffix != ".safetensors":
            raise TrainError(f"{output}: the weights file's name must end in .safetensors")
        with _in_silence(), _ctrl_c_between_reads():
            # its imports take seconds, in which Ctrl-C may come too; torch's threads sleep while FFmpeg works
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            from stmixer.trainer.teach.asked import Lesson
            from stmixer.trainer.teach.lesson import teach

            lesson = Lesson(folder, output, weights, tuple(negatives), detector, settings_of(settings))
            figures = teach(lesson, tell)
    except (TrainError, DivergedError) as error:
        tell.ended("failed", str(error))
        return EXIT_USAGE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        tell.ended("failed", f"{place}{error.strerror or error}; what is done is kept, the same command goes on")
        return EXIT_USAGE
    except KeyboardInterrupt:
        during = f" during {tell.phase}" if tell.phase else ""
        tell.ended("stopped", f"stopped{during}; what is done is kept, the same command goes on")
        return EXIT_STOPPED
    following = f"stmixer serve --weights {shlex.quote(str(output))}"
    values = {"weights": str(output), "figures": figures.as_dict(), "next": following}
    tell.ended("done", f"\n{following}", values)
    return 0


@contextmanager
def _ctrl_c_between_reads() -> Iterator[None]:
    """Ctrl-C waits while FFmpeg reads through us: what is raised there PyAV prints, and the file counts as broken."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # not heeded at all, or by somebody else
        yield
        return

    def heed(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_globals.get("__name__") == READS:
                signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, heed), signal.signal(signal.SIGALRM, heed)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGINT, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without what packages warn of and the trainer logs: a person who teaches can do nothing about it, and is told
    what matters."""
    log = logging.getLogger("stmixer")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
