"""Writes down every call of this repository's functions; Python imports it at start where its folder is on the path.

``bench.frame_way`` puts it there. Each process appends to ``FRAME_WAY_FOLDER/PID``: its command line after ``#``, a
line ``= NUMBER FILE NAME`` the first time a function runs, and ``NUMBER NANOSECONDS`` (monotonic) each time it is
entered, resumed after a ``yield`` or ``await`` included. Of uvicorn's socket the two functions are written down too
through which data arrives and leaves. Class bodies, modules, lambdas and comprehensions belong to the function that
runs them; functions without a file (a dataclass's ``__init__``) are not ours.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType

ROOMS = ("stmixer", "service", "model", "media", "trainer")
SOCKET = "websockets_sansio_impl.py"
SOCKET_FUNCTIONS = ("WebSocketsSansIOProtocol.data_received", "WebSocketsSansIOProtocol.send")

_numbers: dict[CodeType, int] = {}
_known: dict[tuple[str, str], int] = {}
_tree = Path(os.environ["FRAME_WAY_TREE"]).resolve()
_log = -1


def _open_log() -> None:
    global _log
    path = Path(os.environ["FRAME_WAY_FOLDER"]) / str(os.getpid())
    _log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(_log, f"# {' '.join(sys.orig_argv)}\n".encode())


def _number(code: CodeType) -> int:
    """Of a function of ours; -1 for everything else."""
    number = _numbers.get(code)
    if number is None:
        number = _numbers[code] = _introduce(code)
    return number


def _introduce(code: CodeType) -> int:
    name = _name(code)
    if name is None:
        return -1
    if name not in _known:
        _known[name] = len(_known)
        os.write(_log, f"= {_known[name]} {' '.join(name)}\n".encode())
    return _known[name]


def _name(code: CodeType) -> tuple[str, str] | None:
    """File (ours: below the tree) and qualified name of what is to be written down."""
    path, name = Path(os.path.realpath(code.co_filename)), code.co_qualname
    if path.name == SOCKET and name in SOCKET_FUNCTIONS:
        return SOCKET, name
    if not path.is_relative_to(_tree) or code.co_name.startswith("<"):
        return None
    file = path.relative_to(_tree)
    return (str(file), name) if file.parts[0] in ROOMS else None


def _called(number: int) -> None:
    os.write(_log, f"{number} {time.monotonic_ns()}\n".encode())


def _profile(frame: FrameType, event: str, _argument: object) -> None:
    if event == "call" and (number := _number(frame.f_code)) >= 0:
        _called(number)


def _monitored(code: CodeType, _offset: int, *_thrown: object) -> object:
    number = _number(code)
    if number < 0:
        return None if _thrown else sys.monitoring.DISABLE  # type: ignore[attr-defined]
    _called(number)
    return None


def _start() -> None:
    _open_log()
    os.register_at_fork(after_in_child=_open_log)
    if sys.version_info < (3, 12):
        threading.setprofile(_profile)
        sys.setprofile(_profile)
        return
    monitoring = sys.monitoring
    monitoring.use_tool_id(monitoring.PROFILER_ID, "frame_way")
    events = (monitoring.events.PY_START, monitoring.events.PY_RESUME, monitoring.events.PY_THROW)
    for event in events:
        monitoring.register_callback(monitoring.PROFILER_ID, event, _monitored)
    monitoring.set_events(monitoring.PROFILER_ID, events[0] | events[1] | events[2])


_start()
