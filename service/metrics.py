"""Prometheus metrics (SERVICE.md): recorded where things happen, served by the API process alone. Seconds throughout.

Labels are bounded: ``source`` is ws, pull or upload, ``worker`` a small number, never a stream's id.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

_FINE = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15)
LATENCY_BUCKETS = (*_FINE, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """All of them, on a registry of their own, so that tests can run several services in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS) -> Histogram:
            return Histogram(f"stmixer_{name}", text, labels, buckets=buckets, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"stmixer_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"stmixer_{name}", text, labels, registry=registry)

        self.e2e_latency = histogram(
            "e2e_latency_seconds", "Last needed frame received to result handed to the socket.", "source"
        )
        self.keyframe_age = histogram(
            "keyframe_age_seconds", "Keyframe captured to result handed to the socket, look-ahead included.", "source"
        )
        self.stage = histogram("stage_seconds", "Where a keyframe's time goes.", "stage")
        self.batch_size = histogram("batch_size", "Keyframes per batch.", "worker", buckets=BATCH_BUCKETS)
        self.request = histogram("request_seconds", "HTTP requests.", "route", "code")

        self.frames_received = counter("frames_received_total", "Frames that arrived.", "source")
        self.frames_dropped = counter("frames_dropped_total", "Frames lost, by reason.", "source", "reason")
        self.keyframes = counter("keyframes_total", "Keyframes settled.", "source", "outcome")
        self.actors = counter("actors_total", "Actors in results.")
        self.inferences = counter("inferences_total", "Keyframes through the network.", "worker")
        self.batches = counter("batches_total", "Batches through the network.", "worker")
        self.results_dropped = counter("results_dropped_total", "Results a slow subscriber never got.", "transport")
        self.streams_rejected = counter("streams_rejected_total", "Streams not admitted.", "reason")
        self.worker_restarts = counter("worker_restarts_total", "Workers replaced.", "worker", "reason")

        self.streams_active = gauge("streams_active", "Streams now.", "source")
        self.streams_capacity = gauge("streams_capacity", "Streams admitted at most.")
        self.keyframes_waiting = gauge("keyframes_waiting", "Keyframes ready and not yet with a worker.")
        self.ring_bytes = gauge("ring_bytes", "Memory of all frame rings.")
        self.gpu_memory = gauge("gpu_memory_bytes", "Memory the worker has reserved on its GPU.", "worker")
        self.worker_up = gauge("worker_up", "1 when the worker has warmed up and runs.", "worker")
        self.model_info = Info("stmixer_model", "The model that is served.", registry=registry)
