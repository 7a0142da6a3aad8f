"""How many cameras of 720p15 a service bears with 95 results of a hundred within 150 ms, and what stops it.

Cameras are H.264 films that the service plays itself, each by a decoder of its own, as it does an RTSP camera's: nobody
beside it sends or reads. What came of them its metrics say.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.gpu.films import make_film
from bench.gpu.models import fastest, per_second
from bench.gpu.notes import Notes, Row, read_rows
from bench.gpu.scene import Scene
from bench.gpu.search import Found, most_borne
from bench.gpu.table import NOT_MEASURED
from bench.gpu.watch import watched
from stmixer.service.bench.processes import Processes, Usage, own_service
from stmixer.service.bench.streams import usage_report

WITHIN_S = 0.15
"""A bucket's edge of ``stmixer_e2e_latency_seconds``: what lies below is counted, not estimated."""
SHARE = 0.95
FILM = "camera.mp4"
ROUNDS = 30
BUSY = 0.85
"""Of a core, of all cores or of the GPU: so much taken is taken up."""
START_S = 20.0
"""What a number of cameras may take until all are live."""

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Service:
    """A running service, what it is seen to do, and its cameras by id."""

    client: httpx.Client
    processes: Processes
    rate_hz: float
    ids: list[str] = field(default_factory=list)

    def samples(self) -> Samples:
        """Its metrics."""
        families = text_string_to_metric_families(self.client.get("/metrics").raise_for_status().text)
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    def film(self, cameras: int) -> bool:
        """So many cameras, no more and no less; whether all of them are live in time."""
        order = {"url": f"file:{FILM}", "keyframe_hz": self.rate_hz, "lookahead_ms": 0, "loop": True}
        while len(self.ids) < cameras:
            answer = self.client.post("/v1/streams", json=order)
            if answer.status_code != 201:
                return False
            self.ids.append(answer.json()["id"])
        while len(self.ids) > cameras:
            self.client.delete(f"/v1/streams/{self.ids.pop()}")
        until = time.monotonic() + START_S
        while value(self.samples(), "pulled_streams", state="live") < cameras:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
        return True


def cameras(notes: Notes, scene: Scene, name: str) -> None:
    """A model's cameras at each rate; each trial is a row, and what was found another."""
    timed = read_rows(notes.folder / f"models.{name}.jsonl")
    chosen = fastest(timed) or ("auto", "auto")
    notes.add(model=name, runtime=chosen[0], precision=chosen[1])
    with served(scene, name, chosen) as service:
        # a step or two below what the model alone would bear
        first = min(max(round(per_second(timed) / 4), scene.first_cameras), scene.most_cameras)
        for place, rate in enumerate(scene.rates_hz):
            service.film(0)
            service.rate_hz = rate
            until_s = notes.left_s() * (1 - 1 / (len(scene.rates_hz) - place))  # each rate its part of what is left
            tried: list[Row] = []

            def borne(number: int, tried: list[Row] = tried) -> bool:
                tried.append(trial(service, scene, number))
                notes.add(model=name, **tried[-1])
                return bool(tried[-1]["borne"])

            found = most_borne(borne, first, scene.most_cameras, lambda until_s=until_s: notes.left_s() > until_s)
            notes.add(model=name, keyframe_hz=rate, **outcome(found, tried, len(os.sched_getaffinity(0))))
            if tried and rate != scene.rates_hz[-1]:
                first = max(1, round(found.borne * rate / scene.rates_hz[place + 1]))


def outcome(found: Found, tried: Sequence[Row], machine_cores: int) -> Row:
    """What a search came to; ``cameras`` is None where there was no time for a single trial."""
    if not tried:
        return {"cameras": None, "too_many": None, "stopped_by": NOT_MEASURED}
    failed = next((row for row in tried[::-1] if not row["borne"]), None)
    stops = None if failed is None else limit(failed, machine_cores)
    return {"cameras": found.borne, "too_many": found.too_many, "stopped_by": stops}


@contextmanager
def served(
    scene: Scene, name: str, chosen: tuple[str, str], *, spare_workers: int = 0, worker_module: str | None = None
) -> Iterator[Service]:
    """A service of that model, with a folder that has the film. Raises StartError."""
    with tempfile.TemporaryDirectory() as folder:
        make_film(Path(folder) / FILM, *scene.films[0], scene.film_s, ROUNDS)
        settings = {
            "model": name, "device": scene.device, "runtime": chosen[0], "precision": chosen[1],
            "allow_files": folder, "cache_dir": folder,
            "max_streams": 2 * scene.most_cameras, "spare_workers": spare_workers,
        }  # fmt: skip
        with own_service(settings, worker_module) as (url, pid), httpx.Client(base_url=url, timeout=30) as client:
            yield Service(client, Processes(pid, worker_module), scene.rates_hz[0])


def trial(service: Service, scene: Scene, number: int) -> Row:
    """So many cameras for a while: shares of keyframes, seconds by stage, cores by process, the GPU."""
    row: Row = {"keyframe_hz": service.rate_hz, "cameras": number}
    if not service.film(number):
        return row | {"borne": False, "why": "they did not all become live", **cores(service, scene.settle_s)}
    time.sleep(scene.settle_s)
    before, busy = service.samples(), Row()
    with watched(busy):
        used = cores(service, scene.count_s)
    return row | judged(before, service.samples()) | used | busy


def cores(service: Service, seconds: float) -> Row:
    """Cores that each kind of process takes, over so long."""
    service.processes.usage = Usage()
    service.processes.sample()
    time.sleep(seconds)
    service.processes.sample()
    return {"cores": usage_report(service.processes.usage)["cores"]}


def value(samples: Samples, name: str, **labels: str) -> float:
    """A metric of ours; 0 where it has none."""
    return samples.get((f"stmixer_{name}", tuple(sorted(labels.items()))), 0.0)


def judged(before: Samples, after: Samples) -> Row:
    """What the pulled streams' keyframes came to between two looks."""

    def added(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    results = added("e2e_latency_seconds_count", source="pull")
    within = added("e2e_latency_seconds_bucket", source="pull", le=str(WITHIN_S))
    settled = {
        dict(labels)["outcome"]: number - before.get((name, labels), 0.0)
        for (name, labels), number in after.items()
        if name == "stmixer_keyframes_total" and dict(labels)["source"] == "pull"
    }
    due = sum(number for outcome, number in settled.items() if outcome != "cancelled")
    shares = [within / results if results else 0.0, settled.get("ok", 0.0) / due if due else 0.0]
    stages = {
        stage: round(1e3 * added("stage_seconds_sum", stage=stage) / count, 1)
        for stage in ("decode", "preprocess", "queue", "inference", "postprocess", "send")
        if (count := added("stage_seconds_count", stage=stage))
    }
    return {
        "borne": min(shares) >= SHARE,
        "results": int(results),
        "within_150_ms": round(shares[0], 3),
        "ok_share": round(shares[1], 3),
        "stages_ms": stages,
        "batch": round(added("inferences_total", worker="0") / max(1.0, added("batches_total", worker="0")), 1),
    }


def limit(row: Row, machine_cores: int) -> str:
    """What a trial that was not borne was held up by, of: decode, GPU, launches, copies, Python, or unclear."""
    used, stages = row.get("cores", {}), row.get("stages_ms", {})
    if sum(used.values()) >= BUSY * machine_cores:
        busiest = max(used, key=used.get)
        return {"decoder": "decode", "api": "Python", "worker": "launches"}[busiest] + ": all cores are busy"
    if used.get("api", 0.0) >= BUSY:
        return "Python: the API process fills its core"
    if row.get("gpu_busy", 0.0) >= BUSY:
        return "GPU: it computes all the time"
    if used.get("worker", 0.0) >= BUSY:
        copies = stages.get("preprocess", 0.0) > stages.get("inference", 0.0)
        return ("copies" if copies else "launches") + ": the worker fills its core, the GPU waits"
    return "unclear: " + json.dumps({"cores": used, "stages_ms": stages, "gpu_busy": row.get("gpu_busy")})
