"""A worker that is slow, and that ends as told: started in the real one's place (``running_server(worker_module=…)``).

``FAULTY_WORKER_SLOW_MS``: how much longer every batch takes. A keyframe whose ``top_k`` is one of ``POISON`` does to
its worker what that says.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from stmixer.service.ipc.channel import Channel, ChannelError
from stmixer.service.ipc.child import die_with_parent
from stmixer.service.ipc.messages import TO_WORKER, WorkerOptions

MODULE = "faulty_worker"
POISON = {"exit": 4242, "stuck": 4243, "oom": 4244, "cuda": 4245}


def slowly(milliseconds: float) -> dict[str, str]:
    """The environment of a service whose workers take so much longer for a batch."""
    return {"FAULTY_WORKER_SLOW_MS": str(milliseconds)}


def fail(how: str | None) -> None:
    """End as workers end, if at all."""
    match how:
        case "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stuck":
            signal.pause()
        case "oom":
            raise MemoryError("poisoned")
        case "cuda":
            raise RuntimeError("CUDA error: poisoned")


def main() -> None:
    """``python -m faulty_worker FD OPTIONS_JSON``."""
    from stmixer.service.worker.process import open_runner, serve
    from stmixer.service.worker.runner import BatchResult, Job

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), TO_WORKER)
    slow_s = float(os.environ.get("FAULTY_WORKER_SLOW_MS", "0")) / 1000
    ways = {top_k: how for how, top_k in POISON.items()}
    runner, ready = open_runner(WorkerOptions(**json.loads(sys.argv[2])))
    run = runner.run

    def faulty(jobs: Sequence[Job]) -> BatchResult:
        time.sleep(slow_s)
        for job in jobs:
            fail(ways.get(job.top_k or 0))
        done = run(jobs)
        return replace(done, inference_s=done.inference_s + slow_s)

    runner.run = faulty  # type: ignore[method-assign]
    try:
        channel.send(ready)
        serve(channel, runner)
    except ChannelError:
        pass


if __name__ == "__main__":
    main()
