"""One picture's way: the functions of ours that run from a JPEG's arrival at the socket to its result's send.

    python -m bench.frame_way --list
    python -m bench.frame_way --tree ANOTHER_CHECKOUT -o way.json

Starts a service in which every process writes down its calls (``call_log/sitecustomize.py``: ``sys.monitoring``, on
Python 3.11 ``sys.setprofile``), and films for it: JPEGs in real time, several to a keyframe. For each keyframe in
steady state the calls are cut out that lie, in all processes, between the moment the socket (uvicorn's) gets the
picture that completes it and the moment the socket is handed its result. What runs at more than half of the keyframes
is the way; what runs at fewer (a timer that happened to fall into the cut) is listed apart. The file of a function is
the one that defines it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import typer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

HERE = Path(__file__).resolve().parent
CALL_LOG = HERE / "call_log"
START_TIMEOUT_S = 300
RESULT_TIMEOUT_S = 60
LATE_S, MOST_LATE_S = 0.037, 0.1
SOCKET = "websockets_sansio_impl.py"
ARRIVES, LEAVES = (SOCKET, "WebSocketsSansIOProtocol.data_received"), (SOCKET, "WebSocketsSansIOProtocol.send")

Function = tuple[str, str]
"""File below the tree, qualified name."""


@dataclass(frozen=True)
class Calls:
    """One process's: ``what`` names it, ``at`` are (monotonic ns, function), in order."""

    what: str
    at: list[tuple[int, Function]]

    def between(self, begin: int, end: int) -> set[Function]:
        """What was entered or resumed in that time."""
        return {function for moment, function in self.at if begin <= moment <= end and function[0] != SOCKET}

    def socket(self, function: Function, begin: int, end: int) -> list[int]:
        """When the socket was at work in that time."""
        return [moment for moment, what in self.at if begin <= moment <= end and what == function]


def read_calls(folder: Path) -> list[Calls]:
    """All processes that wrote into ``folder``."""
    found = []
    for path in sorted(folder.iterdir()):
        names: dict[int, Function] = {}
        calls = []
        what = ""
        for line in path.read_text().splitlines():
            first, second, *rest = line.split(" ", 3)
            if first == "#":
                what = next((room for room in ("worker", "decoder") if room in line), "api")
            elif first == "=":
                names[int(second)] = (rest[0], rest[1])
            else:
                calls.append((int(second), names[int(first)]))
        found.append(Calls(what, calls))
    return found


@contextmanager
def service(tree: Path, folder: Path, options: list[str]) -> Iterator[str]:
    """A service of that tree; its WebSocket's address. Ends it, and waits for its end."""
    module = "stmixer.service.cli"
    if not (tree / "stmixer").is_dir():  # an older tree, whose rooms have no common name
        module = module.removeprefix("stmixer.")
    command = [sys.executable, "-m", module, "serve", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STMIXER_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(CALL_LOG), str(tree))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FRAME_WAY_TREE": str(tree),
        "FRAME_WAY_FOLDER": str(folder),
        "TMPDIR": str(folder.parent),
        "STMIXER_PORT": "0",
        "STMIXER_SPARE_WORKERS": "0",
        "STMIXER_MAX_STREAMS": "1",
    }
    process = subprocess.Popen(
        command, env=environment, cwd=folder.parent, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    lines: list[str] = []
    ready: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                lines.append(line)
                if match := re.search(r"ready: http(://[^\s\"]+)", line):
                    ready.put(f"ws{match.group(1)}/v1/streams/ws")
        ready.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        url = ready.get(timeout=START_TIMEOUT_S)
        assert url is not None, "".join(lines)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join()


def pictures(clip: Path, fps: float, seconds: float) -> list[bytes]:
    """The clip's frames at that rate, as JPEGs."""
    found: list[bytes] = []
    encoder = av.CodecContext.create("mjpeg", "w")
    with av.open(str(clip)) as video:
        for frame in video.decode(video=0):
            if frame.time is None or frame.time < len(found) / fps:
                continue
            if len(found) >= fps * seconds:
                break
            if not found:
                encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj420p"
                encoder.time_base = video.streams.video[0].time_base
            found += [bytes(packet) for packet in encoder.encode(frame.reformat(format="yuvj420p"))]
    return found


def film(url: str, jpegs: list[bytes], fps: float, warm_up_s: float, keyframes: int) -> list[tuple[int, int]]:
    """Film in real time, about a keyframe a second; per keyframe after the warm-up (sent, answered), monotonic ns.

    A cut holds one picture, the first past the last moment that its keyframe sees: the next one waits for the result.
    Each leaves a little late, by a tenth of a second at most and each by another time: what a timer does beside it,
    however regular, falls into some cuts and not into others.
    """
    cuts: list[tuple[int, int]] = []
    with connect(url, subprotocols=["stmixer.v1"], ping_interval=None, max_size=None) as socket:
        start = {"type": "start", "codec": "jpeg", "timestamps": "prefix", "keyframe_hz": 1.0, "score_threshold": 0.0}
        socket.send(json.dumps(start))
        ready = json.loads(socket.recv())
        lookahead_us, step_us = ready["lookahead_ms"] * 1e3, 1e6 / ready["keyframe_hz"]
        results = _collect(socket)
        origin = time.monotonic()
        number = 0
        due = -1  # the last keyframe whose clip is complete
        while len(cuts) < keyframes:
            late = number * LATE_S % MOST_LATE_S
            time.sleep(max(0.0, origin + number / fps + late - time.monotonic()))
            pts_us = round(number * 1e6 / fps)
            sent = time.monotonic_ns()
            socket.send(pts_us.to_bytes(8, "little") + jpegs[number % len(jpegs)])
            due_before, due = due, math.floor((pts_us - lookahead_us) / step_us + 1e-6)
            if due > max(due_before, -1):
                answered, keyframe_us = results.get(timeout=RESULT_TIMEOUT_S)
                assert round(keyframe_us / step_us) == due, "a keyframe was left out, or late: not a steady state"
                assert results.empty(), "two keyframes at once: not a steady state"
                if number / fps >= warm_up_s:
                    cuts.append((sent, answered))
            number += 1
        socket.send(json.dumps({"type": "stop"}))
    return cuts


def _collect(socket: ClientConnection) -> queue.Queue[tuple[int, int]]:
    """Results as they come: monotonic ns, the keyframe's time in µs."""
    results: queue.Queue[tuple[int, int]] = queue.Queue()

    def read() -> None:
        try:
            for text in socket:
                now, message = time.monotonic_ns(), json.loads(text)
                assert message["type"] != "error", message
                if message["type"] == "result":
                    results.put((now, message["pts_us"]))
        except ConnectionClosed:
            pass

    threading.Thread(target=read, daemon=True).start()
    return results


def measure(tree: Path, clip: Path, options: list[str], fps: float, warm_up_s: float, keyframes: int) -> dict[str, Any]:
    """The way in numbers and names."""
    jpegs = pictures(clip, fps, 4.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "calls"
        folder.mkdir()
        with service(tree, folder, options) as url:
            cuts = film(url, jpegs, fps, warm_up_s, keyframes)
        processes = read_calls(folder)
    seen: Counter[Function] = Counter()
    per_process: Counter[tuple[str, Function]] = Counter()
    sizes = []
    (api,) = (process for process in processes if process.what == "api")
    cuts = [(min(api.socket(ARRIVES, *cut)), max(api.socket(LEAVES, *cut))) for cut in cuts]
    for begin, end in cuts:
        ran = [(process.what, process.between(begin, end)) for process in processes]
        together = set[Function]().union(*(functions for _, functions in ran))
        sizes.append((len(together), len({file for file, _ in together})))
        seen.update(together)
        per_process.update((what, function) for what, functions in ran for function in functions)
    often = len(cuts) / 2
    way = sorted(function for function, count in seen.items() if count > often)
    return {
        "what": "functions of ours, in all processes, from a JPEG's arrival to its result's send; one keyframe, steady",
        "functions": len(way),
        "files": len({file for file, _ in way}),
        "rooms": {
            room: [len(functions), len({file for file, _ in functions})]
            for room in sorted({file.split("/")[0] for file, _ in way})
            if (functions := [function for function in way if function[0].startswith(f"{room}/")])
        },
        "per_keyframe": {
            "functions": {"median": statistics.median(n for n, _ in sizes), "most": max(n for n, _ in sizes)},
            "files": {"median": statistics.median(n for _, n in sizes), "most": max(n for _, n in sizes)},
        },
        "keyframes": len(cuts),
        "milliseconds": round(statistics.median(end - begin for begin, end in cuts) / 1e6, 1),
        "python": platform.python_version(),
        "seen_by": "sys.setprofile" if sys.version_info < (3, 12) else "sys.monitoring",
        "processes": {
            what: [f"{file} {name}" for file, name in way if per_process[what, (file, name)] > often]
            for what in ("api", "decoder", "worker")
        },
        "at_some_keyframes": {
            f"{file} {name}": count for (file, name), count in sorted(seen.items()) if count <= often
        },
    }


def report(result: dict[str, Any], *, listed: bool) -> None:
    """For people."""
    most = result["per_keyframe"]
    print(
        f"{result['functions']} functions in {result['files']} files at most of {result['keyframes']} keyframes"
        f" (one keyframe: median {most['functions']['median']:g}, most {most['functions']['most']};"
        f" {result['milliseconds']} ms under {result['seen_by']})"
    )
    for room, (functions, files) in result["rooms"].items():
        print(f"  {room}: {functions} functions in {files} files")
    if not listed:
        return
    for what, names in result["processes"].items():
        print(f"\n{what}: {len(names)}")
        for function in names:
            print(f"  {function}")
    print("\nat some keyframes only:")
    for function, count in result["at_some_keyframes"].items():
        print(f"  {count:3} {function}")


def main(
    tree: Annotated[Path, typer.Option(help="the checkout to measure")] = HERE.parent,
    clip: Annotated[Path | None, typer.Option(help="what is filmed (default: the repository's walk.mp4)")] = None,
    model: Annotated[str, typer.Option(help="variant with initial weights, or bundled")] = "tiny",
    fps: Annotated[float, typer.Option(min=1, help="pictures a second; a keyframe a second")] = 3.1,
    warm_up_s: Annotated[float, typer.Option(help="filmed before the first keyframe that counts")] = 5.0,
    keyframes: Annotated[int, typer.Option(min=1)] = 15,
    show: Annotated[bool, typer.Option("--list", help="name the functions")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the result, JSON")] = None,
) -> None:
    """Measure and tell."""
    options = [] if model == "bundled" else ["--model", model]
    source = clip or HERE.parent / "tests" / "clips" / "walk.mp4"
    result = measure(tree.resolve(), source.resolve(), options, fps, warm_up_s, keyframes)
    report(result, listed=show)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
