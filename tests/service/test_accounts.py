"""One can tell who did it, and end it: key names in the log and on the list of streams, keys that lapse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from drills import answer_within
from faulty_worker import MODULE, slowly
from posting import MP4, NDJSON, connected, eventually, problem, read_until, request_head
from serving import Server, running_server
from typer.testing import CliRunner
from wire import Wire
from ws_client import Client, jpeg, plain_socket

from stmixer.service.access import Access
from stmixer.service.cli import app
from stmixer.service.errors import AccessError, CapacityError, InputError
from stmixer.service.key_file import Key, KeyFile, digest, new_secret, read_keys, write_keys

WALK = OWN_CLIPS / "walk.mp4"
LAPSE_S = 5.0
"""Within what a key that is no longer good loses what runs for it."""
SOON_S = 6.0
"""What is begun with a key has to have begun by then, on a busy machine too."""


def add(path: Path, name: str, scopes: tuple[str, ...] = ("detect", "stream"), **more: Any) -> str:
    secret, before = new_secret(), read_keys(path).keys if path.exists() else ()
    write_keys(path, KeyFile(keys=(*before, Key(name=name, sha256=digest(secret), scopes=scopes, **more))))
    return secret


def remove(path: Path, name: str) -> None:
    assert CliRunner().invoke(app, ["keys", "remove", name, "--keys", str(path)]).exit_code == 0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def admin(key_file: Path) -> str:
    return add(key_file, "boss", ("admin",))


@pytest.fixture(scope="module")
def watched(tiny_weights: Path, key_file: Path, admin: str) -> Iterator[Server]:
    """300 ms for every keyframe; a lost camera may come back for a minute."""
    with running_server(
        weights=tiny_weights, keys=key_file, log_format="json", worker_module=MODULE, environment=slowly(300),
        max_batch=1, resume_ttl_s=60,
    ) as server:  # fmt: skip
        yield server


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@contextlib.contextmanager
def camera(server: Server, secret: str) -> Iterator[Client]:
    with plain_socket(server) as socket:
        client = Client(socket)
        client.say("start", api_key=secret, keyframe_hz=1)
        client.first("ready")
        yield client


def line_of(server: Server, message: str, request_id: str) -> dict[str, Any]:
    def look() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in [*server.log]]
        return [line for line in found if line["message"] == message and line.get("request_id") == request_id]

    (line,) = eventually(look)
    return line


# -- who it was


def test_every_line_names_the_key_and_none_has_it(watched: Server, key_file: Path) -> None:
    secret = add(key_file, "cam-1", streams=1)
    late = add(key_file, "late", expires=datetime.now(UTC) - timedelta(days=1))
    asked = [
        ("GET", "/v1/labels", bearer(secret), 200, "cam-1", None),
        ("GET", "/metrics", bearer(secret), 403, "cam-1", "forbidden"),
        ("GET", "/v1/labels", bearer(late), 401, "late", "unauthorized"),
        ("GET", "/v1/labels", bearer("stm_none"), 401, None, "unauthorized"),
        ("GET", "/v1/labels", {}, 401, None, "unauthorized"),
        ("POST", "/v1/detect", bearer(secret), 400, "cam-1", "unreadable"),
        ("POST", "/v1/detect?keyframe_hz=x", bearer(secret), 422, "cam-1", "bad_option"),
        ("GET", "/", {}, 200, None, None),
    ]
    for number, (method, path, headers, status, name, code) in enumerate(asked):
        answer = httpx.request(
            method, watched.url + path, headers={**headers, "X-Request-Id": f"asked-{number}"}, timeout=60,
            content=b"no video" if method == "POST" else None,
        )  # fmt: skip
        line = line_of(watched, "request", f"asked-{number}")
        assert (answer.status_code, line["status"]) == (status, status)
        assert (line.get("key"), line.get("code")) == (name, code), (path, line)
    assert line_of(watched, "stream ended", "asked-5")["key"] == "cam-1"
    with plain_socket(watched, additional_headers={"X-Request-Id": "filmed"}) as socket:
        client = Client(socket)
        client.say("start", api_key=secret)
        client.first("ready")
        refused = httpx.post(watched.url + "/v1/detect", headers={**bearer(secret), "X-Request-Id": "second"})
        problem(refused, 429, "over_limit")
        client.stop()
    assert line_of(watched, "stream ended", "filmed")["key"] == "cam-1"
    assert line_of(watched, "request", "filmed")["key"] == "cam-1"
    assert (line_of(watched, "request", "second")["key"], line_of(watched, "request", "second")["code"]) == (
        "cam-1", "over_limit",
    )  # fmt: skip
    with plain_socket(watched, additional_headers={"X-Request-Id": "wrong"}) as socket:
        client = Client(socket)
        client.say("start", api_key=late)
        assert client.refused() == (4401, "unauthorized", "this key has expired")
    line = line_of(watched, "request", "wrong")
    assert (line["key"], line["code"], line["close_code"]) == ("late", "unauthorized", 4401)
    assert not any(key in line for key in (secret, late) for line in watched.log)


def test_a_stream_that_nobody_is_connected_to_ends_with_its_key(watched: Server, key_file: Path) -> None:
    secret = add(key_file, "left-alone")
    with Wire(int(watched.url.rpartition(":")[2])) as wire:
        with plain_socket(Server(wire.url, watched.process)) as socket:
            client = Client(socket)
            client.say("start", api_key=secret)
            number = client.first("ready")["session_id"]
            wire.cut()
        eventually(lambda: [s for s in listed(watched, secret) if s["id"] == number], lambda streams: len(streams) == 1)
    remove(key_file, "left-alone")

    def ended() -> list[Any]:
        lines = [json.loads(line) for line in [*watched.log]]
        return [ln["key"] for ln in lines if ln["message"] == "stream ended" and ln["stream"] == int(number)]

    with ThreadPoolExecutor(1) as pool:
        assert answer_within(pool.submit(eventually, ended), watched, LAPSE_S) == ["left-alone"]


def listed(server: Server, secret: str) -> list[dict[str, Any]]:
    answer = httpx.get(server.url + "/v1/streams", headers=bearer(secret))
    assert answer.status_code == 200, answer.text
    return list(answer.json()["streams"])


def test_an_admin_sees_whose_streams_run(watched: Server, key_file: Path, admin: str) -> None:
    one, two = add(key_file, "hall"), add(key_file, "yard")
    with camera(watched, one) as first, camera(watched, two) as second:
        second.picture(jpeg(0))
        eventually(lambda: [s["summary"]["received"] for s in listed(watched, two)], lambda counts: counts == [1])
        seen = {stream["key"]: stream for stream in listed(watched, admin)}
        assert {"hall", "yard"} <= set(seen)
        assert seen["yard"]["id"] == second.first("ready")["session_id"]
        assert (seen["yard"]["source"], seen["yard"]["policy"], seen["yard"]["keyframe_hz"]) == ("ws", "latest", 1)
        assert [stream["key"] for stream in listed(watched, one)] == ["hall"]
        first.stop()
        second.stop()
    eventually(lambda: [s["key"] for s in listed(watched, admin)], lambda keys: "hall" not in keys)
    assert one not in json.dumps(seen)


# -- its end


@pytest.mark.parametrize("how", ["removed", "expired", "expires soon"])
def test_a_camera_ends_with_its_key(watched: Server, key_file: Path, how: str) -> None:
    name, stays = f"cam {how}".replace(" ", "-"), f"stays-{how}".replace(" ", "-")
    soon = datetime.now(UTC) + timedelta(seconds=SOON_S)
    secret = add(key_file, name, **({"expires": soon} if how == "expires soon" else {}))
    other = add(key_file, stays)
    with camera(watched, secret) as ends, camera(watched, other) as goes_on:
        ends.picture(jpeg(0))
        kept = [key for key in read_keys(key_file).keys if key.name != name]
        if how == "removed":
            remove(key_file, name)
        elif how == "expired":
            mine = next(key for key in read_keys(key_file).keys if key.name == name)
            past = mine.model_copy(update={"expires": datetime.now(UTC) - timedelta(seconds=1)})
            write_keys(key_file, KeyFile(keys=(*kept, past)))
        with ThreadPoolExecutor(1) as pool:
            within_s = LAPSE_S + (SOON_S if how == "expires soon" else 0)
            code, error, message = answer_within(pool.submit(ends.refused), watched, within_s)
        assert (code, error) == (4401, "unauthorized")
        assert message in ("this key was taken away", "this key has expired")
        assert not ends.of("error")[0]["retryable"]
        goes_on.picture(jpeg(1))
        assert goes_on.stop()["received"] == 1


def test_an_upload_on_its_way_ends_with_its_key(watched: Server, key_file: Path) -> None:
    secret, clip = add(key_file, "uploader"), WALK.read_bytes()
    with connected(watched) as connection:
        connection.sendall(request_head(watched, len(clip), **bearer(secret)) + clip[:-1])
        eventually(lambda: "uploader" in [k.name for k in read_keys(key_file).keys])
        eventually(lambda: uploads_waiting(watched, key_file), lambda n: n == 1)
        remove(key_file, "uploader")
        with ThreadPoolExecutor(1) as pool:
            answer = answer_within(pool.submit(read_until, connection, b"taken away"), watched, LAPSE_S)
        assert answer.startswith(b"HTTP/1.1 401 ")


def uploads_waiting(server: Server, key_file: Path) -> float:
    if "scraper" not in (names := {key.name for key in read_keys(key_file).keys}):
        uploads_waiting.secret = add(key_file, "scraper", ("admin",))  # type: ignore[attr-defined]
    assert names
    text = httpx.get(server.url + "/metrics", headers=bearer(uploads_waiting.secret)).text  # type: ignore[attr-defined]
    return float(next(line for line in text.splitlines() if line.startswith("stmixer_uploads_waiting ")).split()[1])


@pytest.mark.parametrize("accept", [NDJSON, MP4])
def test_a_running_upload_ends_with_its_key(watched: Server, key_file: Path, accept: str) -> None:
    """Lines that are out stay; the last one says why there are no more. What has not begun is refused in words."""
    name = f"runs-{accept.replace('/', '-')}"
    secret = add(key_file, name)
    with httpx.stream(
        "POST", watched.url + "/v1/detect", params={"keyframe_hz": "5", "top_k": "1"}, content=WALK.read_bytes(),
        headers={**bearer(secret), "Accept": accept}, timeout=60,
    ) if accept == NDJSON else removing(key_file, name, watched, secret, accept) as answer:  # fmt: skip
        if accept == MP4:
            answer.read()
            assert "taken away" in problem(answer, 401, "unauthorized")
            return
        lines = []
        for line in answer.iter_lines():
            if not lines:
                remove(key_file, name)
            lines.append(json.loads(line))
    tail = lines[-1]
    assert "this key was taken away" in tail["warnings"]
    assert 0 < tail["summary"]["ok"] < 35  # of 300 ms each
    assert tail["summary"]["cancelled"] > 0


@contextlib.contextmanager
def removing(key_file: Path, name: str, server: Server, secret: str, accept: str) -> Iterator[httpx.Response]:
    """Post while the key is taken away once its stream runs."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, server.url + "/v1/detect", params={"keyframe_hz": "5"}, content=WALK.read_bytes(),
            headers={**bearer(secret), "Accept": accept}, timeout=60,
        )  # fmt: skip
        eventually(lambda: [s for s in listed(server, secret) if s["summary"]["ok"]])
        remove(key_file, name)
        yield asked.result(60)


# -- keys as they are kept


def test_a_changed_limit_keeps_what_was_used(tmp_path: Path) -> None:
    path, now = tmp_path / "keys.json", [0.0]
    secret = add(path, "one", streams=2, requests_per_minute=10)
    access = Access(path, lambda: now[0])
    caller = access.caller(secret)
    place = caller.open_stream()
    for _ in range(10):
        caller.spend_request()

    def change(**limits: int) -> None:
        (key,) = read_keys(path).keys
        write_keys(path, KeyFile(keys=(key.model_copy(update=limits),)))

    change(streams=1, requests_per_minute=12)
    again = access.caller(secret)
    assert again.streams == 1
    with pytest.raises(CapacityError, match="1 streams"):
        again.open_stream()
    again.spend_request()
    again.spend_request()
    with pytest.raises(CapacityError, match="12 requests"):
        again.spend_request()
    place.release()
    again.open_stream().release()


def test_a_key_has_its_day(tmp_path: Path) -> None:
    path, today = tmp_path / "keys.json", [datetime(2030, 1, 1, tzinfo=UTC)]
    secret = add(path, "one", expires=datetime(2030, 1, 2, tzinfo=UTC))
    access = Access(path, calendar=lambda: today[0])
    caller = access.caller(secret)
    today[0] = datetime(2030, 1, 2, tzinfo=UTC)
    with pytest.raises(AccessError, match="expired") as refused:
        access.caller(secret)
    assert refused.value.status == 401
    assert caller.lapsed.is_set()
    (key,) = read_keys(path).keys
    write_keys(path, KeyFile(keys=(key.model_copy(update={"expires": datetime(2031, 1, 1, tzinfo=UTC)}),)))
    assert access.caller(secret) is caller
    assert not caller.lapsed.is_set()


def keys(*arguments: str, path: Path) -> Any:
    return CliRunner().invoke(app, ["keys", *arguments, "--keys", str(path)])


@pytest.mark.parametrize(
    ("said", "ends"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("90m", timedelta(minutes=90)),
     ("2099-01-31", datetime(2099, 1, 31, tzinfo=UTC)), ("2099-01-31T18:00Z", datetime(2099, 1, 31, 18, tzinfo=UTC)),
     ("2099-01-31T18:00+02:00", datetime(2099, 1, 31, 16, tzinfo=UTC))],
)  # fmt: skip
def test_a_key_with_an_end(tmp_path: Path, said: str, ends: timedelta | datetime) -> None:
    path = tmp_path / "keys.json"
    made = keys("add", "one", "--expires", said, path=path)
    assert made.exit_code == 0, made.output
    (key,) = read_keys(path).keys
    assert key.created is not None
    assert abs(key.created - datetime.now(UTC)) < timedelta(minutes=5)
    assert key.expires == (ends if isinstance(ends, datetime) else key.created + ends)
    told = keys("list", path=path).output
    assert f"\tmade {key.created:%Y-%m-%d %H:%M} UTC\texpires {key.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC" in told


@pytest.mark.parametrize("said", ["soon", "-1d", "0d", "2001-01-01", "1y", ""])
def test_an_end_that_is_none(tmp_path: Path, said: str) -> None:
    refused = keys("add", "one", f"--expires={said}", path=tmp_path / "keys.json")
    assert isinstance(refused.exception, InputError)
    assert "--expires" in str(refused.exception)
    assert not (tmp_path / "keys.json").exists()


def test_a_key_file_of_before(tmp_path: Path) -> None:
    path, secret = tmp_path / "keys.json", new_secret()
    old = {"name": "old", "sha256": digest(secret), "scopes": ["detect"], "streams": 3, "requests_per_minute": None,
           "megabytes_per_minute": 5}  # fmt: skip
    path.write_text(json.dumps({"keys": [old]}))
    path.chmod(0o600)
    assert Access(path).caller(secret).name == "old"
    assert keys("list", path=path).output == "old\tdetect\t3 streams, None requests and 5 MB a minute\n"
    assert keys("add", "new", path=path).exit_code == 0
    assert [key.name for key in read_keys(path).keys] == ["old", "new"]
