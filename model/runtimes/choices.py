"""Choices that were made by measuring, kept in a file for the next start. Imports no torch."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmixer.model.runtimes.measure import Candidate

log = logging.getLogger("stmixer")

FILE = "runtimes.json"
FORMAT = 1
MOST_CHOICES = 64
MOST_BYTES = 2**18
BOOT = "boot"
"""Beside a choice's figures, where one is missing: ``this_boot`` when it was made."""
MUCH_FASTER = 0.9
"""A candidate takes the place of a lighter one from this part of its time on."""


@dataclass(frozen=True, slots=True)
class CandidateTimes:
    """Seconds of a keyframe by candidate, the lightest first. ``out``: those that failed, or took too long."""

    seconds: tuple[tuple[Candidate, float], ...]
    out: tuple[Candidate, ...] = ()

    def best(self) -> Candidate:
        """The fastest, where it is much faster than a lighter one."""
        chosen, least = self.seconds[0]
        for candidate, seconds in self.seconds[1:]:
            if seconds < MUCH_FASTER * least:
                chosen, least = candidate, seconds
        return chosen

    def __str__(self) -> str:
        told = [f"{candidate} {seconds * 1e3:.3g} ms" for candidate, seconds in self.seconds]
        out = f"; out: {', '.join(map(str, self.out))}" if self.out else ""
        return f"as measured here, a keyframe: {', '.join(told)}{out}"


class ChoiceFile:
    """``FILE`` in a folder of ours. What cannot be read, or is not what we write, counts as nothing; what cannot be
    written is not kept. A choice with somebody out is one until the machine starts anew: it may have been busy."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def read(self, key: str, candidates: Sequence[Candidate]) -> CandidateTimes | None:
        """What was kept under this key, if it is of all these candidates."""
        kept = self._all().get(key)
        if not isinstance(kept, dict):
            return None
        figures = dict(kept)
        boot = figures.pop(BOOT, None)
        known = {str(candidate): candidate for candidate in candidates}
        if figures.keys() != known.keys():
            return None
        seconds = tuple((known[name], float(value)) for name, value in figures.items() if _is_time(value))
        out = tuple(known[name] for name, value in figures.items() if value is None)
        if not seconds or len(seconds) + len(out) < len(known) or (out and (boot is None or boot != this_boot())):
            return None
        return CandidateTimes(seconds, out)

    def keep(self, key: str, choice: CandidateTimes) -> None:
        """Write it down, as the newest of ``MOST_CHOICES``. Whoever reads meanwhile reads the file before or after."""
        if choice.out and this_boot() is None:
            return
        kept = {other: value for other, value in self._all().items() if other != key}
        kept = dict(list(kept.items())[-(MOST_CHOICES - 1) :])
        kept[key] = {str(candidate): seconds for candidate, seconds in choice.seconds}
        if choice.out:
            kept[key] |= {str(candidate): None for candidate in choice.out} | {BOOT: this_boot()}
        new: str | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, new = tempfile.mkstemp(prefix=f".{FILE}.", dir=self._path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "choices": kept}, file, indent=1)
            os.replace(new, self._path)
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error.strerror)
            if new is not None:
                with suppress(OSError):
                    os.unlink(new)

    def _all(self) -> Mapping[str, Any]:
        try:
            with open(self._path, "rb", opener=_without_waiting) as file:
                data = file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
            found = json.loads(data) if len(data) <= MOST_BYTES else None
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("choices"), dict):
            return {}
        choices: dict[str, Any] = found["choices"]
        return choices


def this_boot() -> str | None:
    """What tells this start of the machine from others; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except (OSError, ValueError):
        return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would have us wait for who writes


def _is_time(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < math.inf
