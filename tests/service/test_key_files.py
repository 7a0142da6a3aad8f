"""Keys where they lie: changed by several at once, writable by others, on a command line, in the log."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually
from serving import Server, running_server
from ws_client import Client, plain_socket

from stmixer.service.access import Access
from stmixer.service.bench.cli import without_option
from stmixer.service.errors import StartError
from stmixer.service.key_file import Key, KeyFile, digest, new_secret, read_keys, write_keys
from stmixer.service.logs import ConsoleFormatter, JsonFormatter, fields, without_keys

STMIXER = [sys.executable, "-m", "stmixer.service.cli"]


def kept(path: Path, name: str = "one", scopes: tuple[str, ...] = ("detect", "stream")) -> str:
    secret = new_secret()
    write_keys(path, KeyFile(keys=(Key(name=name, sha256=digest(secret), scopes=scopes),)))
    return secret


# -- the file


def test_a_key_is_256_bits_of_the_systems_and_kept_as_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def random(count: int) -> bytes:
        drawn.append(count)
        return os.urandom(count)

    monkeypatch.setattr("secrets.token_bytes", random)
    made = {new_secret() for _ in range(3)}
    assert (len(made), drawn) == (3, [32] * 3)
    assert {len(base64.urlsafe_b64decode(secret.removeprefix("stm_") + "=")) for secret in made} == {32}
    for secret in made:
        assert digest(secret) == hashlib.sha256(secret.encode()).hexdigest()


def test_a_key_is_on_the_disk_before_it_takes_the_old_files_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, name, folder: whenever power is lost there is the one or the other, whole."""
    path, done, sync, replace = tmp_path / "keys.json", list[str](), os.fsync, os.replace

    def synced(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("folder" if name == str(tmp_path) else Path(name).read_text()[:1])
        sync(descriptor)

    def replaced(source: str, target: Path) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_keys(path, KeyFile(keys=()))
    assert done == ["{", "name", "folder"]


def test_keys_that_are_added_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    adding = [
        subprocess.Popen([*STMIXER, "keys", "add", f"key-{n}", "--keys", str(path)], stdout=subprocess.PIPE, text=True)
        for n in range(6)
    ]
    made = [process.communicate(timeout=120)[0].strip() for process in adding]
    assert [process.returncode for process in adding] == [0] * 6
    assert sorted(key.name for key in read_keys(path).keys) == [f"key-{n}" for n in range(6)]
    access = Access(path)
    assert sorted(access.caller(secret).name for secret in made) == [f"key-{n}" for n in range(6)]
    assert os.listdir(tmp_path) == ["keys.json"]


def test_whoever_could_read_the_file_still_can_after_a_change(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    kept(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    group = 12345 if os.geteuid() == 0 else os.getegid()  # of the service, say
    os.chown(path, -1, group)
    kept(path, "another")
    after = path.stat()
    assert (after.st_mode & 0o777, after.st_uid, after.st_gid) == (0o640, os.geteuid(), group)
    assert [key.name for key in read_keys(path).keys] == ["another"]


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602, 0o620])
def test_a_file_that_others_may_write_is_none(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    secret = kept(path)
    access = Access(path)
    path.chmod(mode)
    with pytest.raises(StartError) as refused:
        Access(path)
    assert f"chmod go-w {path}" in str(refused.value)
    assert f"{mode:04o}" in str(refused.value)
    done = subprocess.run(
        [*STMIXER, "serve", "--port", "0", "--keys", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("STMIXER_")},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"chmod go-w {path}" in done.stderr
    os.utime(path, ns=(1, 1))  # a running service keeps the keys of before
    assert access.caller(secret).name == "one"
    path.chmod(0o640)
    assert Access(path).caller(secret).name == "one"


def test_a_folder_that_others_may_write_is_as_good_as_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    secret = kept(folder / "keys.json")
    folder.chmod(0o777)
    with pytest.raises(StartError, match=f"chmod o-w {folder}"):
        Access(folder / "keys.json")
    folder.chmod(0o1777)  # as /tmp is: nobody puts another file in its place
    assert Access(folder / "keys.json").caller(secret).name == "one"


# -- a command line


def test_a_key_on_the_command_line_does_not_stay_there() -> None:
    secret = new_secret()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = ["bench", "streams", str(OWN_CLIPS / "fall.mp4"), "--url", url, "--cameras", "1", "--seconds", "60"]
        bench = subprocess.Popen([*STMIXER, *command, f"--api-key={secret}"], stderr=subprocess.PIPE, text=True)
        try:
            asked, _ = listening.accept()
            with asked:
                asked.settimeout(60)
                head = asked.recv(65536).decode()
            assert f"Authorization: Bearer {secret}".lower() in head.lower()
            shown = Path(f"/proc/{bench.pid}/cmdline").read_text()
            assert "--url" in shown
            assert secret not in shown
        finally:
            bench.send_signal(signal.SIGKILL)
            said = bench.communicate(timeout=30)[1]
    assert "--api-key-file" in said
    assert secret not in said


@pytest.mark.parametrize(
    ("line", "left"),
    [("x --api-key K y", "x y"), ("x --api-key=K y", "x y"), ("--api-key", ""),
     ("--api-key-file F", "--api-key-file F"),
     ("--api-key K --api-key L", "")],
)  # fmt: skip
def test_a_command_line_without_the_option(line: str, left: str) -> None:
    assert without_option(line.split(), "--api-key") == left.split()


# -- the log


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def secret(key_file: Path) -> str:
    return kept(key_file)


@pytest.fixture(scope="module")
def chatty(tiny_weights: Path, key_file: Path, secret: str) -> Iterator[Server]:
    with running_server(weights=tiny_weights, keys=key_file, log_level="debug") as server:
        yield server


@pytest.mark.slow
def test_at_debug_no_line_has_a_key(chatty: Server, secret: str) -> None:
    head = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(chatty.url + f"/v1/labels?api_key={secret}", headers=head).status_code == 200
    for headers, start in ((head, {}), ({}, {"api_key": secret})):
        with plain_socket(chatty, additional_headers=headers) as connected:
            client = Client(connected)
            client.say("start", **start)
            client.first("ready")
            client.stop()
    with plain_socket(Server(chatty.url, chatty.process)) as connected:
        client = Client(connected)
        client.say("start", api_key=secret[:-1])
        client.closed()
    with pytest.raises(httpx.HTTPError):
        httpx.get(chatty.url + "/v1/labels", headers={"Authorization": "Bearer \x01" + secret}).raise_for_status()
    assert any("stream ended" in line for line in chatty.log)
    assert not [line for line in chatty.log if secret[4:24] in line or secret[-20:-1] in line]


@pytest.mark.parametrize(
    "line",
    ["< Authorization: Bearer {0}", "{{'authorization': 'Bearer {0}'}}", "(b'authorization', b'Basic {0}')",
     '{{"type": "start", "api_key": "{0}"}}', "/v1/labels?api_key={0}&x=1", '{{\\"api_key\\": \\"{0}\\"}}', "key {0}."],
)  # fmt: skip
@pytest.mark.parametrize("key", ["stm_Abc-123_x" + "y" * 30, "dXNlcjpwYXNz"])
def test_what_looks_like_a_key_is_taken_out(line: str, key: str) -> None:
    said = without_keys(line.format(key))
    if line != "key {0}." or key.startswith("stm_"):
        assert key not in said
        assert "…" in said
    assert said.startswith(line.split("{0}")[0].replace("{{", "{")[:10])


FORGED = "one\nrequest method=GET path=/ status=200 key=boss\r\n\x1b[2J\u2028\x85"


@pytest.mark.parametrize("where", ["message", "field", "error"])
@pytest.mark.parametrize("form", [ConsoleFormatter(), JsonFormatter()], ids=["console", "json"])
def test_a_line_cannot_be_made_to_look_like_two(form: logging.Formatter, where: str) -> None:
    error = None
    if where == "error":
        try:
            raise ValueError(FORGED)
        except ValueError:
            error = sys.exc_info()
    said = FORGED if where == "message" else "request"
    record = logging.LogRecord("stmixer", logging.INFO, __file__, 1, said, None, error)
    record.__dict__.update(fields(client=FORGED if where == "field" else "127.0.0.1", status=403))
    first, *rest = form.format(record).splitlines()
    assert all(line.startswith("    ") for line in rest)
    assert bool(rest) == (where == "error" and isinstance(form, ConsoleFormatter))
    assert not any(ord(letter) < 32 or letter in "\x7f\x85\x1b\u2028" for line in (first, *rest) for letter in line)
    if isinstance(form, JsonFormatter):
        assert json.loads(first)["status"] == 403


@pytest.mark.parametrize("hop", ["fe80::1%a status=200 key=boss", "fe80::1%\x7f", 'fe80::1%"', "fe80::1%" + "x" * 33])
def test_an_address_with_a_zone_that_is_a_sentence_is_none(server: Server, hop: str) -> None:
    name = f"hop-{hop.encode().hex()[:40]}"
    httpx.get(server.url + "/v1/labels", headers={"X-Forwarded-For": hop, "X-Request-Id": name})
    (line,) = eventually(lambda: [line for line in [*server.log] if f"request_id={name}" in line])
    assert " client=127.0.0.1 status=200 took_ms=" in line
    assert "boss" not in line
