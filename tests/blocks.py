"""The fenced blocks of the documents, and which of them no test runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "weights/README.md", "tests/clips/README.md")
    for path in ROOT.glob(pattern)
)
NO_CODE = {"", "text"}
"""Kinds of blocks that nobody runs: drawings, folders, a citation."""

NOT_RUN = {
    (
        "README.md",
        "docker compose up",
    ): "wants a container engine; tests/service/test_compose.py has compose read the file",
    ("README.md", "make run"): "sets up a machine; .ci/run does the same, and tests/serving.py starts what it starts",
    ("README.md", "make test"): "it is what runs the tests",
    (
        "README.md",
        ".venv/bin/stmixer detect rtsp:",
    ): "wants a camera on the network; tests/offline/test_camera.py has one of its own",
    ("README.md", ".venv/bin/stmixer serve --weights model.safetensors"): "weights of the reader's own; "
    "tests/serving.py serves such",
    ("docs/api.md", "pip install --no-deps stmixer"): "wants a package registry; "
    "tests/service/test_api_docs.py runs the client with what it would bring",
    (
        "docs/api.md",
        "curl -sSf -H 'Content-Type: application/json' -d '{\"url\": \"rtsp:",
    ): "wants a camera on the network; tests/service/test_pulled_streams.py and test_previews.py have streams "
    "of their own",
    ("docs/cameras.md", "stmixer serve --allow-networks"): "wants a camera on the network; "
    "tests/service/test_pulled_streams.py has one of its own",
    ("docs/cluster.md", "pip install '.[cluster]'"): "wants a package registry; tests/ray_nodes.py serves "
    "the same application",
    ("docs/cluster.md", "export RAY_USAGE_STATS_ENABLED=0"): "wants several machines; tests/ray_nodes.py has nodes in "
    "processes",
    ("docs/cluster.md", "serve deploy cluster.yaml"): "wants a cluster that is there; tests/ray_nodes.py has one",
    ("docs/cluster.md", "export RAY_REDIS_ADDRESS=REDIS:6379"): "wants several machines; tests/cluster/test_losses.py "
    "has Redis and nodes in processes",
    ("docs/gpu.md", "python -m bench.gpu.wheels"): "wants a package registry; tests/test_gpu_steps.py looks at what is "
    "fetched",
    ("docs/gpu.md", "tar -xzf day.tgz"): "wants a GPU; tests/test_gpu_rehearsal.py rehearses it",
    (
        "docs/events.md",
        "openssl rand -hex 32",
    ): "wants a camera on the network and Home Assistant; tests/events/ has a clip and a receiver of its own",
    (
        "docs/events.md",
        "stmixer serve --allow-networks 192.168.1.0/24 --streams streams.yaml --events-file events.db --mqtt ",
    ): "wants a camera and a broker on the network; tests/events/test_mqtt_served.py has both",
    (
        "docs/operate.md",
        "docker compose up",
    ): "wants a container engine; tests/service/test_compose.py has compose read the file",
    ("docs/operate.md", "useradd --system stmixer"): "sets up a machine as root; "
    "tests/journeys/test_operator.py does it in a folder",
    (
        "docs/operate.md",
        "openssl req -x509",
    ): "wants a phone on the network; tests/browser/test_phone.py does it for this machine's own address",
    (
        "docs/operate.md",
        "stmixer bench streams",
    ): "measures for minutes; tests/service/test_bench_streams.py is shorter",
    (
        "docs/operate.md",
        'curl -sS -X POST "$STMIXER/v1/models"',
    ): "wants weights of one's own; tests/service/test_models.py does the same",
    ("docs/proxy.md", "stmixer serve --keys"): "the addresses are made up; tests/service/test_proxies.py has its own",
    (
        "docs/scale.md",
        "python -m bench.overload",
    ): "measures for minutes; tests/test_fleet_bench.py reads what it found",
    ("docs/scale.md", "kubectl create secret"): "wants a cluster; tests/service/test_k8s.py reads the files",
    (
        "docs/train.md",
        "stmixer teach my_actions",
    ): "learns for minutes; tests/journeys/test_ml_engineer.py runs the page's rehearsal of it",
    ("docs/train.md", "stmixer-weights list"): "wants a network, and weights at an address that is made up; "
    "tests/model/test_pull.py has a server of its own",
    ("docs/train.md", "torchrun --nproc-per-node 8"): "wants several GPUs; tests/trainer/test_distributed.py has two "
    "processes on a CPU",
    (
        "docs/train.md",
        "stmixer serve --allow-teach",
    ): "serves until it is ended; tests/browser/test_teach_page.py does it on the page",
    ("docs/train.md", "stmixer-train calibrate"): "wants more than the toy run's few videos to fit on; "
    "tests/trainer/test_calibration.py has such",
    (
        "weights/README.md",
        ".venv/bin/stmixer-weights convert",
    ): "wants a published checkpoint, which is not ours to pass "
    "on; tests/model/test_published_files.py converts files of its layout",
}
"""What is not run as it stands, by its page and how it begins, and why: blocks of ``console``, and lines of others."""

RUN_BY = {
    ("README.md", "python"): "tests/test_face.py",
    ("README.md", "sh"): "tests/service/test_api_docs.py",
    ("docs/api.md", "javascript"): "tests/service/test_api_docs.py",
    ("docs/api.md", "js"): "tests/browser/test_camera_program.py",
    ("docs/api.md", "python"): "tests/service/test_api_docs.py",
    ("docs/api.md", "sh"): "tests/service/test_api_docs.py",
    ("docs/cameras.md", "yaml"): "tests/service/test_streams_file.py",
    ("docs/cluster.md", "yaml"): "tests/cluster/test_application.py",
    ("docs/evaluation.md", "sh"): "tests/trainer/evaluate/test_evaluation_page.py",
    ("docs/events.md", "python"): "tests/events/test_events_page.py",
    ("docs/events.md", "yaml"): "tests/events/test_events_page.py",
    ("docs/operate.md", "json"): "tests/test_blocks.py",
    ("docs/operate.md", "sh"): "tests/service/test_api_docs.py",
    ("docs/paper.md", "yaml"): "tests/trainer/test_paper_page.py",
    ("docs/proxy.md", "nginx"): "tests/service/test_proxies.py",
    ("docs/train.md", "sh"): "tests/trainer/test_docs.py",
    ("docs/train.md", "yaml"): "tests/trainer/test_docs.py",
}
"""The test that runs a page's blocks of a kind."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Each fenced block's kind and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def not_run(page: str) -> tuple[str, ...]:
    """How the lines and blocks of a page begin that no test runs."""
    return tuple(start for place, start in NOT_RUN if place == page)
