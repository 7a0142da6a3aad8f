"""Prometheus metrics (docs/protocol.md): recorded where things happen, served by the API process alone. In seconds.

Labels are bounded: ``source`` is ws, pull or upload, ``worker`` a small number, never a stream's id, so a stream that
ends leaves no series behind. What is known beforehand starts at 0: a first restart or refusal is an increase, not the
birth of a series that ``increase()`` cannot see.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, Info, exposition
from prometheus_client.process_collector import ProcessCollector

from stmixer.service.ipc.messages import BatchDone
from stmixer.service.schemas import OUTCOMES

_FINE = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15)
LATENCY_BUCKETS = (*_FINE, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SOURCES = ("ws", "pull", "upload")
STAGES = ("decode", "preprocess", "queue", "inference", "postprocess", "send")
RESTART_REASONS = ("exit", "stuck", "oom", "cuda", "protocol")
LOST_REASONS = ("exit", "stuck", "cpu", "protocol")
REJECT_REASONS = ("capacity", "key_limit", "draining", "decoder", "uploads")
RECONNECT_REASONS = ("resumed", "evicted", "expired")
"""A resume token that found its stream, its stream with another socket on it, or none any more."""
PULL_REASONS = (
    "refused", "timeout", "unreachable", "name", "address_refused", "redirects", "tls", "unauthorized", "no_such_path",
    "bad_answer", "connection_lost", "ended", "silent", "overloaded", "decoder",
)  # fmt: skip
"""Why an attempt of a stream that is pulled ended; what is wrong with its media is "media"."""
MEDIA_REASON = "media"
PULL_STATES = ("connecting", "live", "stalled", "reconnecting", "ended", "failed")
CLIP_EXTENTS = ("whole", "part")
CLIP_REASONS = (
    "decoder", "ended", "busy", "off", "codec", "no_keyframe", "gone", "too_large", "unmuxable", "encoding", "disk",
    "no_memory", "shutdown", "internal",
)  # fmt: skip
"""Why there is no clip of an event."""
RECEIVERS = ("webhook", "mqtt")
DELIVERY_OUTCOMES = ("delivered", "retried", "dead")
EVENT_STATES = ("start", "update", "end")
DROP_REASONS = ("mailbox", "out_of_order", "corrupt", "decoder", "cancelled")
OTHER_REASON = "other"


@dataclass(frozen=True, slots=True)
class Scraped:
    """What was measured, as it is written."""

    text: bytes
    content_type: str

    @classmethod
    def plain(cls, text: bytes) -> Scraped:
        """In Prometheus' first form."""
        return cls(text, CONTENT_TYPE_PLAIN_0_0_4)


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
        self.stage = histogram("stage_seconds", "Where a keyframe's time goes; together its latency.", "stage")
        self.batch_size = histogram("batch_size", "Keyframes per batch.", "worker", buckets=BATCH_BUCKETS)
        self.request = histogram("request_seconds", "HTTP requests.", "route", "code")

        self.frames_received = counter("frames_received_total", "Frames that arrived.", "source")
        self.frames_dropped = counter("frames_dropped_total", "Frames lost, by reason.", "source", "reason")
        self.keyframes = counter("keyframes_total", "Keyframes settled.", "source", "outcome")
        self.actors = counter("actors_total", "Actors in results.")
        self.inferences = counter("inferences_total", "Keyframes through the network.", "worker")
        self.batches = counter("batches_total", "Batches through the network.", "worker")
        self.results_dropped = counter("results_dropped_total", "Results a slow subscriber never got.", "transport")
        self.stream_reconnects = counter("stream_reconnects_total", "Streams that came back.", "reason")
        self.streams_rejected = counter("streams_rejected_total", "Streams not admitted.", "reason")
        self.worker_restarts = counter("worker_restarts_total", "Workers replaced.", "worker", "reason")
        self.decoders_lost = counter("decoders_lost_total", "Decoders that ended before their source did.", "reason")

        self.event_clips = counter("event_clips_total", "Clips of events that were kept, whole or in part.", "extent")
        self.event_clips_lost = counter("event_clips_lost_total", "Clips of events that there are none of.", "reason")
        self.event_clip_bytes = gauge("event_clip_bytes", "What clips and thumbnails of events take on disk.")
        self.events = counter("events_total", "Events that were told, by what was told of them.", "state")
        self.events_open = gauge("events_open", "Events that have begun and not ended.")
        self.deliveries = counter("event_deliveries_total", "Tries to hand an event on.", "to", "outcome")
        self.events_waiting = gauge("events_waiting", "Events that their receiver has not taken yet.", "to")
        self.event_age = gauge("event_age_seconds", "Since the oldest of those.", "to")
        self.receiver_up = gauge(
            "event_receiver_up", "1 while there is a connection to it, 0 else, nothing where none is wanted.", "to"
        )
        self.event_store_errors = counter("event_store_errors_total", "Times that events could not be written down.")

        self.pulled_streams = gauge("pulled_streams", "Streams that are pulled, by their state.", "state")
        self.streams_active = gauge("streams_active", "Streams now.", "source")
        self.uploads_waiting = gauge("uploads_waiting", "Uploads on their way or waiting for a place, no streams yet.")
        self.streams_capacity = gauge("streams_capacity", "Streams admitted at most.")
        self.seat_streams = gauge("seat_streams", "Streams that a worker and those before it have served.", "worker")
        self.seat_capacity = gauge("seat_capacity", "Streams that a worker can serve; 0 while there is none.", "worker")
        self.keyframe_load = gauge(
            "keyframe_load",
            "Seconds a second that all live keyframes would take of the fullest worker; above 1 streams take turns.",
        )
        self.keyframes_waiting = gauge("keyframes_waiting", "Keyframes ready and not yet with a worker.")
        self.ring_bytes = gauge("ring_bytes", "Memory of all frame rings.")
        self.gpu_memory = gauge("gpu_memory_bytes", "Memory the worker has reserved on its GPU.", "worker")
        self.ready = gauge("ready", "1 where /readyz says so.")
        self.worker_up = gauge("worker_up", "1 when the worker has warmed up and runs.", "worker")
        Info("stmixer_build", "What runs.", registry=registry).info(
            {"version": metadata.version("stmixer"), "python": platform.python_version()}
        )
        self.model_info = Info("stmixer_model", "The model that is served.", registry=registry)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for source in SOURCES:
            for per_source in (self.e2e_latency, self.keyframe_age, self.frames_received, self.streams_active):
                per_source.labels(source)
            for outcome in OUTCOMES:
                self.keyframes.labels(source, outcome)
            for reason in (*DROP_REASONS, OTHER_REASON):
                self.frames_dropped.labels(source, reason)
        for stage in STAGES:
            self.stage.labels(stage)
        for reason in LOST_REASONS:
            self.decoders_lost.labels(reason)
        for reason in REJECT_REASONS:
            self.streams_rejected.labels(reason)
        for extent in CLIP_EXTENTS:
            self.event_clips.labels(extent)
        for reason in (*CLIP_REASONS, OTHER_REASON):
            self.event_clips_lost.labels(reason)
        for state in PULL_STATES:
            self.pulled_streams.labels(state)
        for reason in (*RECONNECT_REASONS, *PULL_REASONS, MEDIA_REASON):
            self.stream_reconnects.labels(reason)
        for event_state in EVENT_STATES:
            self.events.labels(event_state)
        for receiver in RECEIVERS:
            for handed_on in DELIVERY_OUTCOMES:
                self.deliveries.labels(receiver, handed_on)
            self.events_waiting.labels(receiver)
            self.event_age.labels(receiver)
        for source in ("ws", "pull"):
            self.results_dropped.labels(source)

    def written(self, accept: str) -> Scraped:
        """As it is read by whom this Accept header is of."""
        encoder, content_type = exposition.choose_encoder(accept)
        return Scraped(encoder(self.registry), content_type)

    def pull_ended(self, reason: str) -> None:
        """An attempt of a pulled stream, after which there is another."""
        self.stream_reconnects.labels(reason if reason in PULL_REASONS else MEDIA_REASON).inc()

    def clip_lost(self, reason: str) -> None:
        """There is none of an event. A reason may come from a decoder: one we do not know is "other"."""
        self.event_clips_lost.labels(reason if reason in CLIP_REASONS else OTHER_REASON).inc()

    def dropped(self, source: str, reason: str, count: int) -> None:
        """Frames lost. A reason comes from a decoder, which has met untrusted media: one we do not know is "other"."""
        self.frames_dropped.labels(source, reason if reason in DROP_REASONS else OTHER_REASON).inc(count)

    def begin_worker(self, worker: str) -> None:
        """A worker's place is new: what is counted of it begins at 0."""
        for reason in RESTART_REASONS:
            self.worker_restarts.labels(worker, reason)

    def forget_worker(self, worker: str) -> None:
        """A worker's place is no more: what is told of how it is now goes with it."""
        for gauge in (self.seat_streams, self.seat_capacity, self.worker_up, self.gpu_memory):
            gauge.remove(worker)

    def batch_done(self, worker: str, done: BatchDone, at: float, keyframes: Sequence[tuple[float, float]]) -> None:
        """A batch came back: of each keyframe that ran, when its last needed frame came and when that was decoded.

        Each waited for all of the batch, so each counts its seconds. ``queue`` is the rest between decoded and done:
        the wait for a worker, and the ways to it and back. None ran if all their frames had been overwritten.
        """
        self.gpu_memory.labels(worker).set(done.gpu_memory)
        if keyframes:
            self.batch_size.labels(worker).observe(len(keyframes))
            self.batches.labels(worker).inc()
            self.inferences.labels(worker).inc(len(keyframes))
        seconds = done.seconds
        worked = seconds.preprocess + seconds.inference + seconds.postprocess
        for frame_at, ready_at in keyframes:
            self.stage.labels("decode").observe(ready_at - frame_at)
            self.stage.labels("preprocess").observe(seconds.preprocess)
            self.stage.labels("queue").observe(max(0.0, at - ready_at - worked))
            self.stage.labels("inference").observe(seconds.inference)
            self.stage.labels("postprocess").observe(seconds.postprocess)
