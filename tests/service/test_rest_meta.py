"""What the service says of itself: metrics, models, labels, health, its OpenAPI document; and whom it lets in."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually, post, problem, samples
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from serving import Server

FALL = OWN_CLIPS / "fall.mp4"
LATENCY = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10,
    float("inf"),
]  # fmt: skip
# docs/protocol.md, Metrics
HISTOGRAMS = {
    "e2e_latency_seconds": {"source"}, "keyframe_age_seconds": {"source"}, "stage_seconds": {"stage"},
    "batch_size": {"worker"}, "request_seconds": {"route", "code"},
}  # fmt: skip
COUNTERS = {
    "frames_received": {"source"}, "frames_dropped": {"source", "reason"}, "keyframes": {"source", "outcome"},
    "actors": set[str](), "inferences": {"worker"}, "batches": {"worker"}, "results_dropped": {"transport"},
    "stream_reconnects": {"reason"}, "streams_rejected": {"reason"}, "worker_restarts": {"worker", "reason"},
    "decoders_lost": {"reason"}, "events": {"state"}, "event_deliveries": {"to", "outcome"},
    "event_store_errors": set[str](), "event_clips": {"extent"}, "event_clips_lost": {"reason"},
}  # fmt: skip
GAUGES = {
    "streams_active": {"source"}, "streams_capacity": set[str](), "keyframes_waiting": set[str](),
    "keyframe_load": set[str](), "uploads_waiting": set[str](), "pulled_streams": {"state"},
    "events_open": set[str](), "events_waiting": {"to"}, "event_age_seconds": {"to"}, "event_receiver_up": {"to"},
    "event_clip_bytes": set[str](), "seat_streams": {"worker"}, "seat_capacity": {"worker"}, "ready": set[str](),
    "ring_bytes": set[str](), "gpu_memory_bytes": {"worker"}, "worker_up": {"worker"},
}  # fmt: skip
WITHOUT_SOURCE = {"frames_dropped"}


def families(text: str) -> dict[str, Any]:
    found = text_string_to_metric_families(text)
    return {family.name.removeprefix("stmixer_"): family for family in found if family.name.startswith("stmixer_")}


def test_every_metric_is_there_with_its_labels_and_buckets(server: Server) -> None:
    post(server, FALL).raise_for_status()
    found = families(server.metrics())
    for name, labels in HISTOGRAMS.items():
        assert found[name].type == "histogram"
        buckets = [s for s in found[name].samples if s.name.endswith("_bucket")]
        assert buckets
        assert {frozenset(s.labels) for s in buckets} == {frozenset(labels | {"le"})}
        series = {tuple(v for k, v in sorted(s.labels.items()) if k != "le") for s in buckets}
        bounds = [float(s.labels["le"]) for s in buckets]
        if name != "batch_size":
            assert bounds == LATENCY * len(series)
        else:
            assert bounds[0] == 1
            assert bounds[-2] >= 64
    for name, labels in COUNTERS.items():
        assert found[name].type == "counter"
        totals = [s for s in found[name].samples if s.name.endswith("_total")]
        assert totals or name in WITHOUT_SOURCE
        assert all(set(s.labels) == labels for s in totals)
    for name, labels in GAUGES.items():
        assert found[name].type == "gauge"
        assert found[name].samples or name == "event_receiver_up", "that is there where a broker is wanted"
        assert all(set(s.labels) == labels for s in found[name].samples)
    assert found["model_info"].samples[0].labels == {"model": "tiny", "trained": "false"}
    assert set(found) == {*HISTOGRAMS, *COUNTERS, *GAUGES, "model_info", "build_info"} | {
        f"{name}_created" for name in found if f"{name}_created" in found
    }
    stages = {s.labels["stage"] for s in found["stage_seconds"].samples}
    assert stages >= {"decode", "preprocess", "queue", "inference", "postprocess"}


def test_what_an_upload_adds(server: Server) -> None:
    before = samples(server)
    answer = post(server, FALL, keyframe_hz=2).json()
    summary, found = answer["summary"], samples(server)

    def added(name: str, **labels: str) -> float:
        key = ("stmixer_" + name, tuple(sorted(labels.items())))
        return found.get(key, 0) - before.get(key, 0)

    assert added("e2e_latency_seconds_count", source="upload") == summary["keyframes_due"] == 11
    assert added("keyframe_age_seconds_count", source="upload") == 11
    assert added("keyframes_total", source="upload", outcome="ok") == summary["ok"] == 11
    assert added("frames_received_total", source="upload") == summary["received"] == 81
    assert added("actors_total") == sum(len(k["actors"]) for k in answer["keyframes"])
    assert added("inferences_total", worker="0") == 11
    batches = added("batches_total", worker="0")
    assert 1 <= batches <= 11
    assert added("batch_size_count", worker="0") == batches
    assert added("batch_size_sum", worker="0") == 11
    for stage in ("preprocess", "inference", "postprocess"):
        assert added("stage_seconds_count", stage=stage) == 11
    assert added("stage_seconds_count", stage="queue") == added("stage_seconds_count", stage="decode") == 11
    stages = ("decode", "preprocess", "queue", "inference", "postprocess", "send")
    whole = added("e2e_latency_seconds_sum", source="upload")
    assert sum(added("stage_seconds_sum", stage=stage) for stage in stages) == pytest.approx(whole, rel=0.05)
    ages = added("keyframe_age_seconds_sum", source="upload")
    taken = sum(k["sent_at_us"] - k["received_at_us"] for k in answer["keyframes"]) / 1e6
    assert ages == pytest.approx(taken, abs=0.1)
    assert 0 < added("e2e_latency_seconds_sum", source="upload") <= ages
    eventually(
        lambda: samples(server).get(
            ("stmixer_request_seconds_count", (("code", "200"), ("route", "/v1/detect"))), 0
        ) - before.get(("stmixer_request_seconds_count", (("code", "200"), ("route", "/v1/detect"))), 0),
        lambda n: n == 1,
    )  # fmt: skip


def test_series_do_not_grow_with_streams(server: Server) -> None:
    for hz in (1, 2):  # whatever series an upload can make exist now
        post(server, FALL, keyframe_hz=hz, score_threshold=0.5)
    eventually(lambda: samples(server)["stmixer_streams_active", (("source", "upload"),)], lambda n: n == 0)
    before = set(samples(server))
    for hz in (0.5, 3, 4):
        post(server, FALL.read_bytes(), keyframe_hz=hz, top_k=int(hz * 2))
    assert set(samples(server)) == before


def test_metrics_as_openmetrics(server: Server) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    response = httpx.get(server.url + "/metrics", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    found = {family.name: family.type for family in openmetrics_families(response.text)}
    assert found["stmixer_keyframes"] == "counter"
    assert found["stmixer_model"] == "info"
    plain = httpx.get(server.url + "/metrics", headers={"Accept": "text/html"})
    assert plain.headers["content-type"].startswith("text/plain")


def test_models_and_labels(server: Server) -> None:
    answer = httpx.get(server.url + "/v1/models").json()
    assert answer["teach"] is False
    (model,) = answer["models"]
    assert (model["name"], model["default"], model["trained"], model["source"]) == ("tiny", True, False, "fill.py")
    assert (model["classes"], model["device"]) == (80, "cpu")
    ran = (model["runtime"], model["precision"], model["chosen"])
    assert ran == ("eager", "fp32", "since it has no ONNX graphs")
    assert 500 <= model["lookahead_ms"] <= 1100
    labels = httpx.get(server.url + "/v1/labels").json()
    assert labels["model"] == "tiny"
    assert len(labels["labels"]) == len({label["id"] for label in labels["labels"]}) == 80
    assert {"id": 12, "name": "stand"} in labels["labels"]


def test_health(server: Server) -> None:
    for path in ("/healthz", "/v2/health/live"):
        assert httpx.get(server.url + path).json() == {"status": "ok"}
    for path in ("/readyz", "/v2/health/ready"):
        assert httpx.get(server.url + path).json() == {"status": "ready"}


# -- the OpenAPI document


def references_in(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references_in(value) for value in node.values()))
    return set().union(*map(references_in, node)) if isinstance(node, list) else set()


def test_the_openapi_document(server: Server) -> None:
    response = httpx.get(server.url + "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert re.fullmatch(r"3\.[01]\.\d", document["openapi"])
    assert set(document["info"]) >= {"title", "version"}
    assert set(document["paths"]) == {
        "/v1/detect", "/v1/draw", "/v1/drawings/{request_id}", "/v1/models",
        "/v1/models/{name}", "/v1/models/{name}/default", "/v1/labels", "/v1/status", "/v1/streams",
        "/v1/streams/{stream_id}", "/v1/streams/{stream_id}/events", "/v1/streams/{stream_id}/ws",
        "/v1/streams/{stream_id}/snapshot.jpg", "/v1/streams/{stream_id}/preview.mjpg", "/v1/tokens", "/v1/streams/ws",
        "/v1/streams/{stream_id}/rules", "/v1/events", "/v1/events/{event_id}/clip.mp4",
        "/v1/events/{event_id}/thumbnail.jpg", "/v1/teach", "/v1/teach/clips", "/v1/teach/clips/{clip_id}",
        "/v1/teach/lesson", "/v1/teach/draft.html", "/v1/teach/kept", "/v1/teach/trial",
        "/healthz", "/readyz", "/metrics", "/asyncapi.json",
    }  # fmt: skip
    for reference in references_in(document):
        node: Any = document
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            node = node[part]
        assert node
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["responses"]
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in operation["responses"])
        assert all(answer["description"] for answer in operation["responses"].values())
    detect = document["paths"]["/v1/detect"]["post"]
    assert {p["name"] for p in detect["parameters"]} == {
        "keyframe_hz", "preset", "model", "score_threshold", "top_k", "action_threshold", "lookahead_ms",
        "track_max_gap_s",
    }  # fmt: skip
    assert all(p["in"] == "query" and not p["required"] for p in detect["parameters"])
    assert set(detect["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
    assert set(detect["responses"]["200"]["content"]) == {"application/json", "application/x-ndjson", "video/mp4"}
    for status in ("400", "403", "408", "413", "415", "422", "503"):
        assert set(detect["responses"][status]["content"]) == {"application/problem+json"}


def test_the_routes_can_be_read(server: Server) -> None:
    """All of the document, on a page of its own that loads one style sheet of ours, and no script."""
    answer = httpx.get(server.url + "/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    document = httpx.get(server.url + "/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            (section,) = re.findall(
                rf"<section><h2 id=[^>]+><code>{method.upper()} {re.escape(path)}</code>.*?</section>", answer.text
            )
            for parameter in operation.get("parameters", ()):
                assert f"<td><code>{parameter['name']}</code></td>" in section
            assert all(f"<tr><td>{status}</td>" in section for status in operation["responses"])
    assert (
        "<td><code>keyframe_hz</code></td><td>query</td><td>number, ≥ 0.001, ≤ 30</td><td><code>1.0</code></td>"
        in answer.text
    )
    anchors = set(re.findall(r' id="([^"]+)"', answer.text))
    assert set(re.findall(r'href="#([^"]+)"', answer.text)) <= anchors
    assert set(re.findall(r'(?:src|href)="([^#"][^"]*)"', answer.text)) == {
        "web/docs.css", "openapi.json", "asyncapi.json", "./",
    }  # fmt: skip
    assert "<script" not in answer.text
    assert httpx.get(server.url + "/web/docs.css").status_code == 200


# -- who may ask, and for what


@pytest.mark.parametrize("path", ["/v1/models", "/", "/healthz", "/metrics"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "[::2]"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost"},  # another port of this machine is another origin
    ],
    ids=str,
)
def test_foreign_hosts_and_origins_are_refused(server: Server, path: str, headers: dict[str, str]) -> None:
    response = httpx.get(server.url + path, headers=headers)
    problem(response, 403, "forbidden")
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_page_may_not_post(server: Server) -> None:
    headers = {"Origin": "https://evil.example"}
    response = httpx.post(server.url + "/v1/detect", content=FALL.read_bytes(), headers=headers)
    problem(response, 403, "forbidden")


def test_own_hosts_and_origins_are_let_in(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "localhost", "LOCALHOST", f"[::1]:{port}"):
        for origin in ({}, {"Origin": f"http://{host}"}):
            assert httpx.get(server.url + "/v1/models", headers={"Host": host, **origin}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/web/none.js", 404, "not_found"),
        ("GET", "/web/%2e%2e/settings.py", 404, "not_found"),
        ("GET", "/web/..%2fsettings.py", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
        ("GET", "/v1/detect", 405, "method_not_allowed"),
        ("PUT", "/v1/detect", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/web/app.js", 405, "method_not_allowed"),
        ("BREW", "/", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_a_problem_document(
    server: Server, method: str, path: str, status: int, code: str
) -> None:
    response = httpx.request(method, server.url + path)
    problem(response, status, code)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_security_headers(server: Server) -> None:
    answers = [httpx.get(server.url + path) for path in ("/", "/web/app.js", "/v1/models", "/metrics", "/none")]
    answers += [post(server, b"no video"), post(server, FALL), post(server, FALL, accept="application/x-ndjson")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_and_its_scripts(server: Server) -> None:
    page = httpx.get(server.url + "/")
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="(/?web/[^"]+)"', page.text)
    assert any(name.endswith(".js") for name in named)
    assert any(name.endswith(".css") for name in named)
    pending, seen = [name.lstrip("/") for name in named], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        answer = httpx.get(f"{server.url}/{name}")
        assert answer.status_code == 200, name
        kind = answer.headers["content-type"].partition(";")[0]
        if name.endswith(".js"):
            assert kind in ("text/javascript", "application/javascript")
            pending += ["web/" + other for other in re.findall(r'from "\./([^"]+)"', answer.text)]
        elif name.endswith(".css"):
            assert kind == "text/css"
    assert len([name for name in seen if name.endswith(".js")]) > 3
