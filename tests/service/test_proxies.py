"""Behind nginx, configured as docs/proxy.md says: page, clips, lines as they are made, cameras, below a prefix."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from faulty_worker import MODULE, slowly
from posting import NDJSON, eventually, made_video, metric
from proxied import SITE, nginx
from serving import Server, running_server
from websockets.exceptions import InvalidStatus
from ws_client import Client, jpeg, plain_socket

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow  # services and proxies are started one after another


@pytest.fixture(scope="module")
def behind(tiny_weights: Path) -> Iterator[Server]:
    """A service that others reach as https://cam.example:8443/cam/, with 300 ms for every keyframe."""
    with running_server(
        weights=tiny_weights, worker_module=MODULE, environment=slowly(300), max_batch=1,
        allowed_hosts="cam.example", root_path="/cam",
    ) as server:  # fmt: skip
        yield server


def documented() -> str:
    """The configuration in docs/proxy.md."""
    found = re.search(r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "proxy.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


KINDS = {
    "documented": lambda site: site,
    "takes the prefix off": lambda site: site.replace("proxy_pass http://stmixer;", "proxy_pass http://stmixer/;"),
    "leaves our address in Host": lambda site: site.replace("Host $host;", "Host 127.0.0.1;"),
}


@pytest.fixture(scope="module", params=KINDS)
def proxied(
    request: pytest.FixtureRequest, behind: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service through nginx, in each of the ways that people configure it."""
    site = KINDS[request.param](documented())
    assert request.param == "documented" or site != documented()
    with nginx(site, behind, tmp_path_factory.mktemp("nginx")) as server:
        yield server


def test_page_and_clip(proxied: Server) -> None:
    page = httpx.get(f"{proxied.url}/", headers=SITE)
    assert (page.status_code, 'src="web/app.js"' in page.text) == (200, True)
    assert httpx.get(f"{proxied.url}/web/app.js", headers=SITE).status_code == 200
    answer = httpx.post(f"{proxied.url}/v1/detect", content=made_video(128, 96, 35), headers=SITE, timeout=60)
    assert answer.json()["summary"]["ok"] == 2
    foreign = httpx.get(f"{proxied.url}/v1/labels", headers={**SITE, "Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "forbidden")


def test_lines_come_as_they_are_made(proxied: Server, behind: Server) -> None:
    """A proxy buffers: the first line would come with the last."""
    with httpx.stream(
        "POST", f"{proxied.url}/v1/detect", params={"top_k": 1}, content=(OWN_CLIPS / "walk.mp4").read_bytes(),
        headers={**SITE, "Accept": NDJSON}, timeout=60,
    ) as response:  # fmt: skip
        lines = response.iter_lines()
        assert json.loads(next(lines))["seq"] == 0
        assert metric(behind, "streams_active", source="upload") == 1
        assert len(list(lines)) == 7


def socket_to(server: Server) -> tuple[Server, socket.socket]:
    """A camera's way through the proxy: the name that it asks for, and the proxy's own address."""
    host, port = server.url.removeprefix("http://").partition("/")[0].split(":")
    return Server("http://cam.example/cam", server.process), socket.create_connection((host, int(port)))


def test_a_camera(proxied: Server) -> None:
    named, tcp = socket_to(proxied)
    with plain_socket(named, sock=tcp, origin="https://cam.example:8443") as socket:
        client = Client(socket)
        client.say("start", keyframe_hz=4, lookahead_ms=0, score_threshold=1)
        client.first("ready")
        client.picture(jpeg(0))
        assert client.first("result")["frame"] == {"width": 320, "height": 240}
        assert client.stop()["ok"] == 1
    named, tcp = socket_to(proxied)
    with (
        pytest.raises(InvalidStatus) as refused,
        plain_socket(named, sock=tcp, origin="https://evil.example"),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_proxy_that_was_not_told_of_sockets(behind: Server, tmp_path: Path) -> None:
    site = re.sub(r"(?m)^ *proxy_set_header (Upgrade|Connection) .*\n", "", documented())
    with nginx(site, behind, tmp_path) as server:
        named, tcp = socket_to(server)
        with pytest.raises(InvalidStatus) as refused, plain_socket(named, sock=tcp):
            pass
        assert refused.value.response.status_code == 426
        assert b"Upgrade and Connection" in (refused.value.response.body or b"")


def test_who_asked_stands_in_the_log(behind: Server, tmp_path: Path) -> None:
    with nginx(documented(), behind, tmp_path) as server:
        headers = {**SITE, "X-Forwarded-For": "203.0.113.9", "X-Request-Id": "through-nginx"}
        assert httpx.get(f"{server.url}/v1/labels", headers=headers).status_code == 200
    (line,) = eventually(lambda: [line for line in behind.log if "through-nginx" in line])
    assert "203.0.113.9" in line
