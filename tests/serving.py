"""A real `stmixer serve` for tests: started as a user starts it, ended with its children."""

from __future__ import annotations

import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from httpx._transports import default as transports

WORKER_MODULE = "stmixer.service.worker.process"
DECODER_MODULE = "stmixer.service.decoder.process"
TEACHER_MODULE = "stmixer.cli"
CACHE = tempfile.TemporaryDirectory(prefix="cache-")
"""All services of a run share what is measured once."""
START_TIMEOUT_S = 600  # the largest variant warms up for minutes
LOOK_S = 28.0
"""How long tests look whether something is so: less than the 30 s after which an upload, or who reads nothing, ends."""


_context = transports.create_ssl_context
_TRUSTING = _context()


def _shared_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """httpx reads the certificates of the whole world anew for each request without a client, of http:// too: 27 ms of
    CPU whenever a test asks a service whether something is so."""
    if verify is True and cert is None and trust_env:
        return _TRUSTING
    return _context(verify=verify, cert=cert, trust_env=trust_env)


transports.create_ssl_context = _shared_context


@dataclass
class Server:
    """``url`` like http://127.0.0.1:PORT; ``log`` grows while it runs; its and its children's temporary files.

    ``worker_module``: what its workers run. ``admin_key``: the secret that opens its metrics, where keys are asked for.
    ``environment``: what it was started with.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    temporary_folder: Path | None = None
    worker_module: str = WORKER_MODULE
    admin_key: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def ws_url(self) -> str:
        """Of the stream socket."""
        return self.url.replace("http", "ws") + "/v1/streams/ws"

    @property
    def children(self) -> list[psutil.Process]:
        """Its worker and decoders."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def children_of(self, module: str) -> list[psutil.Process]:
        """Children by their module: ``stmixer.service.worker.process`` or ``stmixer.service.decoder.process``."""
        found, module = [], self.worker_module if module == WORKER_MODULE else module
        for child in self.children:
            with suppress(psutil.NoSuchProcess):  # it ended while we looked
                if module in child.cmdline():
                    found.append(child)
        return found

    def metrics(self) -> str:
        """/metrics as text."""
        headers = {} if self.admin_key is None else {"Authorization": f"Bearer {self.admin_key}"}
        return httpx.get(self.url + "/metrics", headers=headers, timeout=LOOK_S).raise_for_status().text


@contextmanager
def running_server(
    *,
    worker_module: str = WORKER_MODULE,
    decoder_module: str = DECODER_MODULE,
    teacher_module: str = TEACHER_MODULE,
    service_module: str | None = None,
    environment: Mapping[str, str] | None = None,
    descriptors: int | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Settings by name, as ``STMIXER_*`` in the environment. No spare worker: it would take the tests' cores.

    ``worker_module``, ``decoder_module``, ``teacher_module``: another module in a child's place, of this folder
    (``faulty_worker``, ``faulty_decoder``, ``stand_in_teacher``); ``service_module``: one in the command's
    (``watched_service``); ``environment`` is set besides.

    ``descriptors``: how many each of its processes may open.

    As many streams as they like: what is measured on a busy machine is too little. And a stream ends with its socket,
    so that what it held can be looked for at once. Its temporary folder is its own: other services run beside it.
    """
    command = ["stmixer.service.cli", "serve"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STMIXER_")}
    environment = {**inherited, **(environment or {})}
    if (worker_module, decoder_module, teacher_module) != (WORKER_MODULE, DECODER_MODULE, TEACHER_MODULE):
        modules = ["--worker-module", worker_module, "--decoder-module", decoder_module]
        modules += ["--teacher-module", teacher_module]
        command = ["stmixer.service.bench.faulty_service", *modules]
    if service_module is not None:
        command = [service_module]
    if command[0] != "stmixer.service.cli":
        environment["PYTHONPATH"] = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parent)])
    environment |= {"STMIXER_PORT": "0", "STMIXER_SPARE_WORKERS": "0", "STMIXER_MAX_STREAMS": "32"}
    environment |= {"STMIXER_RESUME_TTL_S": "0", "STMIXER_CACHE_DIR": CACHE.name}
    environment |= {f"STMIXER_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="service-") as folder:
        yield from _running(command, environment | {"TMPDIR": folder}, worker_module, descriptors)


def _running(
    command: list[str], environment: dict[str, str], worker_module: str, descriptors: int | None
) -> Iterator[Server]:
    limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}"]
    process = subprocess.Popen(
        [*limit, sys.executable, "-m", *command], env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines: list[str] = []
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                lines.append(line.rstrip())
                if match := re.search(r"ready: (https?://[^\s\"]+)", line):
                    found.put(match.group(1))
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        url = found.get(timeout=START_TIMEOUT_S)
        assert url is not None, "\n".join(lines)
        yield Server(url, process, lines, Path(environment["TMPDIR"]), worker_module, environment=environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        reader.join(10)
        assert process.returncode == 0, "\n".join(lines)
