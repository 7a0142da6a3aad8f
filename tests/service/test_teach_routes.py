"""A lesson over HTTP: clips come in as uploads do, names lead nowhere, who is no admin sees nothing, and what was
taught is tried beside what is served."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually, made_video, problem
from pydantic import ValidationError
from serving import Server, running_server
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from ws_client import jpeg

from stmixer.service.access import Caller
from stmixer.service.api import teach
from stmixer.service.api.drawings import Drawings
from stmixer.service.api.service import Service, check_can_teach
from stmixer.service.errors import CapacityError, InputError, StartError
from stmixer.service.ipc.messages import DrawnTo
from stmixer.service.key_file import Key, KeyFile, digest, write_keys
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings
from stmixer.service.teaching.teaching import Teaching

TEACHER = "stand_in_teacher"
SCOPES = {"boss": ("admin",), "rest": ("detect", "stream")}


@dataclass
class School:
    """A service that may be taught, and the folder it does that in."""

    server: Server
    folder: Path

    def ask(self, method: str, path: str = "", key: str | None = "boss", **more: Any) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.request(method, f"{self.server.url}/v1/teach{path}", headers=headers, timeout=120, **more)

    def add(self, label: str = "wave", content: bytes | None = None, **more: str) -> httpx.Response:
        content = made_video(128, 96, 8) if content is None else content
        return self.ask("POST", "/clips", params={"label": label, **more}, content=content)

    def state(self) -> dict[str, Any]:
        return self.ask("GET").raise_for_status().json()

    def learn(self, name: str) -> dict[str, Any]:
        """Until it has ended."""
        assert self.ask("POST", "/lesson", json={"name": name}).status_code == 202
        return eventually(self.state, lambda state: state["state"] != "learning", 60)


@pytest.fixture(scope="module")
def running(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    folder, keys = tmp_path_factory.mktemp("school") / "teach", tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(keys, KeyFile(keys=tuple(Key(name=n, sha256=digest(n), scopes=s) for n, s in SCOPES.items())))  # type: ignore[arg-type]
    terms = {
        "keys": keys,
        "allow_teach": "true",
        "teach_dir": folder,
        "teach_mb": 1,
        "max_duration_s": 20,
        "idle_timeout_s": 300,
    }
    with running_server(weights=tiny_weights, teacher_module=TEACHER, **terms) as server:
        server.admin_key = "boss"
        yield School(server, folder)


@pytest.fixture
def school(running: School) -> Iterator[School]:
    yield running
    assert running.ask("DELETE").status_code == 204
    assert (running.state()["clips"], running.state()["state"]) == ([], "open")


def test_a_clip_comes_in_and_is_encoded_anew(school: School) -> None:
    given = (OWN_CLIPS / "fall.mp4").read_bytes()
    clip = school.add("water plants", given, scene="garden")
    assert clip.status_code == 201
    told = clip.json()
    assert (told["label"], told["scene"]) == ("water plants", "garden")
    assert school.state()["clips"] == [told]
    (file,) = (school.folder / "clips").glob("*/*")
    assert file.relative_to(school.folder / "clips") == Path("water plants") / f"garden__{told['clip_id']}.mp4"
    kept = school.ask("GET", f"/clips/{told['clip_id']}")
    assert (kept.headers["content-type"], kept.content) == ("video/mp4", file.read_bytes())
    assert kept.content != given
    with av.open(io.BytesIO(given)) as theirs, av.open(io.BytesIO(kept.content)) as ours:
        assert sum(1 for _ in ours.decode(video=0)) == sum(1 for _ in theirs.decode(video=0)) == 81
    assert school.ask("DELETE", f"/clips/{told['clip_id']}").status_code == 204
    problem(school.ask("DELETE", f"/clips/{told['clip_id']}"), 404, "not_found")
    assert list((school.folder / "clips").iterdir()) == []


def test_a_clip_as_a_form(school: School) -> None:
    answer = school.ask("POST", "/clips", params={"label": "none"}, files={"file": ("../a.mp4", made_video(64, 64, 4))})
    assert answer.status_code == 201
    assert [path.name for path in (school.folder / "clips" / "none").iterdir()] == [f"{answer.json()['clip_id']}.mp4"]


@pytest.mark.parametrize(
    ("label", "content", "status", "code"),
    [
        ("wave", b"", 400, "unreadable"), ("wave", b"no video" * 50, 400, "unreadable"),
        ("../../etc", None, 422, "bad_label"), ("a/b", None, 422, "bad_label"), (".", None, 422, "bad_label"),
        ("x.teach", None, 422, "bad_label"), ("", None, 422, "bad_label"), ("x" * 201, None, 422, "bad_option"),
    ],
)  # fmt: skip
def test_what_is_no_clip_or_no_label_leaves_nothing(
    school: School, label: str, content: bytes | None, status: int, code: str
) -> None:
    problem(school.add(label, content), status, code)
    assert list((school.folder / "clips").iterdir()) == []


def test_the_rules_of_uploads_hold(school: School) -> None:
    """A clip that is longer than videos may be here, one that is too much, and no room for another one."""
    problem(school.add(content=made_video(64, 64, 21 * 5, 5)), 413, "too_long")
    noisy = made_video(640, 480, 60)
    answers = [school.add(content=noisy)]
    while answers[-1].status_code == 201 and len(answers) < 12:
        answers.append(school.add(content=noisy))
    assert problem(answers[-1], 413, "too_large") == "the clips take all of the 1 MiB for them; remove some first"
    assert 0 < school.state()["bytes"] <= 2**20


@pytest.mark.parametrize("name", ["0", "-1", "1.mp4", "..%2fwork", "9" * 5000, "a%00b"])
def test_no_other_name_leads_anywhere(school: School, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert school.ask(method, f"/clips/{name}").status_code in (404, 405, 422)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", ".a", "x" * 65, "a\n"])
def test_a_models_name_is_none_of_these(school: School, name: str) -> None:
    assert school.add().status_code == 201
    problem(school.ask("POST", "/lesson", json={"name": name}), 422, "bad_option")


ROUTES = [
    ("GET", ""), ("DELETE", ""), ("POST", "/clips?label=a"), ("GET", "/clips/1"), ("DELETE", "/clips/1"),
    ("POST", "/lesson"), ("DELETE", "/lesson"), ("GET", "/draft.html"), ("POST", "/kept"), ("POST", "/trial"),
    ("DELETE", "/trial"), ("GET", "/trial/v1/models"), ("POST", "/trial/v1/detect"), ("GET", "/trial/nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_it_is_the_admins(school: School, method: str, path: str) -> None:
    problem(school.ask(method, path, None), 401, "unauthorized")
    problem(school.ask(method, path, "nobody"), 401, "unauthorized")
    assert "'admin'" in problem(school.ask(method, path, "rest"), 403, "forbidden")
    foreign = httpx.request(
        method, f"{school.server.url}/v1/teach{path}",
        headers={"Authorization": "Bearer boss", "Origin": "https://evil.example"},
    )  # fmt: skip
    problem(foreign, 403, "forbidden")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_it_is_off_unless_it_is_allowed(server: Server, method: str, path: str) -> None:
    body = {"json": {}} if path == "/lesson" else {}
    problem(httpx.request(method, f"{server.url}/v1/teach{path}", **body), 404, "not_found")  # type: ignore[arg-type]


def test_a_lesson_is_learned_and_kept(school: School) -> None:
    assert httpx.get(school.server.url + "/v1/models", headers={"Authorization": "Bearer rest"}).json()["teach"] is True
    problem(school.ask("POST", "/lesson", json={}), 409, "no_clips")
    problem(school.ask("GET", "/draft.html"), 404, "not_found")
    problem(school.ask("POST", "/kept"), 409, "not_learned")
    problem(school.ask("POST", "/trial"), 409, "not_learned")
    assert school.add().status_code == 201
    state = school.learn("mine")
    assert (state["state"], state["name"]) == ("done", "mine")
    assert [phase["phase"] for phase in state["phases"]] == ["look", "draft", "learn"]
    page = school.ask("GET", "/draft.html")
    assert "<figure>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    kept = school.ask("POST", "/kept")
    assert kept.status_code == 201
    assert kept.json()["serve"] == f"stmixer serve --weights {school.folder / 'kept' / 'mine.safetensors'}"
    assert school.state()["kept"] == [kept.json()]
    problem(school.ask("POST", "/lesson", json={"name": "mine"}), 409, "exists")


def test_it_is_stopped(school: School) -> None:
    assert school.add().status_code == 201
    assert school.ask("POST", "/lesson", json={"name": "waits"}).status_code == 202
    eventually(school.state, lambda state: len(state["phases"]) == 3, 60)
    problem(school.add(), 409, "learning")
    problem(school.ask("POST", "/lesson", json={}), 409, "learning")
    assert school.ask("DELETE", "/lesson").status_code == 204
    assert school.state()["state"] == "stopped"
    assert school.ask("DELETE", "/lesson").status_code == 204


@pytest.mark.slow
def test_what_was_learned_is_tried_beside_what_is_served(school: School) -> None:
    assert school.add().status_code == 201
    assert school.learn("tried")["state"] == "done"
    problem(school.ask("GET", "/trial/v1/models"), 404, "not_found")
    with pytest.raises(InvalidStatus):
        trial_socket(school).__enter__()
    assert school.ask("POST", "/trial").status_code == 202
    state = eventually(school.state, lambda state: state["trial"]["state"] != "starting", 120)
    assert state["trial"] == {"state": "ready", "says": ""}
    (school.folder / "kept" / "taken.safetensors").touch()
    problem(school.ask("POST", "/lesson", json={"name": "taken"}), 409, "exists")
    (school.folder / "kept" / "taken.safetensors").unlink()
    assert school.ask("GET", "/trial/v1/models").json()["models"][0]["name"] == "stmixer-rt"
    names = {label["name"] for label in school.ask("GET", "/trial/v1/labels").json()["labels"]}
    found = school.ask("POST", "/trial/v1/detect", content=(OWN_CLIPS / "walk.mp4").read_bytes())
    assert found.status_code == 200
    actions = {a["name"] for k in found.json()["keyframes"] for actor in k["actors"] for a in actor["actions"]}
    assert actions
    assert actions <= names
    with trial_socket(school) as socket:
        at_once = {"lookahead_ms": 0, "deadline_ms": 60_000, "score_threshold": 1}
        socket.send(json.dumps({"type": "start", "api_key": "boss", **at_once}))
        assert json.loads(socket.recv(60))["model"] == "stmixer-rt"
        served = httpx.get(school.server.url + "/v1/models", headers={"Authorization": "Bearer boss"}).json()
        assert served["models"][0]["name"] == "tiny"
        socket.send(jpeg(0))
        assert next(kind for kind in (json.loads(socket.recv(60))["type"] for _ in range(99)) if kind == "result")
        assert school.ask("DELETE", "/trial").status_code == 204
        for _ in socket:  # what it says yet, until it is closed
            pass
        assert socket.close_code == 1001
    problem(school.ask("GET", "/trial/v1/models"), 404, "not_found")
    assert len(school.server.children_of("stmixer.service.worker.process")) == 1


@pytest.mark.slow
def test_a_trials_camera_is_the_admins(school: School) -> None:
    assert school.add().status_code == 201
    assert school.learn("tried")["state"] == "done"
    assert school.ask("POST", "/trial").status_code == 202
    eventually(school.state, lambda state: state["trial"]["state"] == "ready", 120)
    with trial_socket(school) as socket:
        socket.send(json.dumps({"type": "start", "api_key": "rest"}))
        assert json.loads(socket.recv(60))["code"] == "forbidden"


def trial_socket(school: School) -> Any:
    url = school.server.url.replace("http", "ws") + "/v1/teach/trial/v1/streams/ws"
    return connect(url, subprotocols=["stmixer.v1"], compression=None)  # type: ignore[list-item]


# -- how it starts, and ends with the service


class Dying:
    """A pool whose decoder says how far it has come, as often as it is told to, and ends."""

    def __init__(self, told: int) -> None:
        self._told = told
        self.pid, self.channel, self.clean, self.since = os.getpid(), self, True, None

    async def acquire(self) -> Dying:
        return self

    async def release(self, decoder: Dying, *, clean: bool) -> None:
        self.clean = clean

    async def send(self, message: object, fds: list[int]) -> None:
        os.write(fds[1], b"x" * 100)

    async def receive(self) -> Any:
        self._told -= 1
        return SimpleNamespace(message=DrawnTo(1, None)) if self._told >= 0 else None


@pytest.mark.parametrize(
    ("told", "most_bytes", "code", "says"),
    [
        (
            0,
            1000,
            "unreadable",
            "this clip could not be encoded anew (it ended); convert it to H.264 in MP4",
        ),
        (
            1,
            1000,
            "unreadable",
            "this clip could not be encoded anew (it ended); convert it to H.264 in MP4",
        ),
        (1, 99, "too_large", "the clips take all of the"),
    ],
)
def test_a_clip_that_cannot_be_encoded_is_refused_in_a_lessons_words(
    tmp_path: Path, told: int, most_bytes: int, code: str, says: str
) -> None:
    async def ask() -> None:
        teaching = Teaching(tmp_path, most_bytes, 60.0)
        teaching.open()
        pool, drawings = Dying(told), Drawings(wait_s=0.01)
        service: Any = SimpleNamespace(settings=Settings(), pool=pool, metrics=Metrics(), drawings=drawings)
        clip, caller = await teaching.begin_clip("wave", None), Caller(None)
        try:
            with tempfile.TemporaryFile() as file:
                with pytest.raises(InputError) as refused:
                    await teach._encoded_anew(service, teaching, caller, "127.0.0.1", file, clip)
                assert (refused.value.code, str(refused.value)[: len(says)]) == (code, says)
                assert not pool.clean
                async with drawings.one_more("a", caller, "192.0.2.1"):
                    with pytest.raises(CapacityError, match="are being drawn, or encoded anew for the lesson, already"):
                        await teach._encoded_anew(service, teaching, caller, "192.0.2.1", file, clip)
        finally:
            teaching.abandon_clip(clip)
            await teaching.close()

    asyncio.run(ask())


def test_what_trains_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmixer.service.api.service.missing", lambda modules: ["lightning"])
    with pytest.raises(StartError) as refused:
        check_can_teach()
    assert str(refused.value) == (
        "--allow-teach: lightning not installed; pip install 'stmixer[train]' brings what is missing"
    )


def test_where_lessons_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings(allow_teach=True).teach_folder == tmp_path / "stmixer" / "teach"
    assert Settings(teach_dir=tmp_path / "mine").teach_folder == tmp_path / "mine"
    assert Service(Settings()).teaching is None
    monkeypatch.delenv("XDG_DATA_HOME")

    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ValidationError, match="--allow-teach needs --teach-dir"):
        Settings(allow_teach=True)


@pytest.mark.slow
def test_a_lesson_ends_with_the_service(tiny_weights: Path, tmp_path: Path) -> None:
    terms = {"allow_teach": "true", "teach_dir": tmp_path / "teach"}
    with running_server(weights=tiny_weights, teacher_module=TEACHER, **terms) as server:
        school = School(server, tmp_path / "teach")
        assert school.add().status_code == 201
        assert school.ask("POST", "/lesson", json={"name": "waits"}).status_code == 202
        eventually(school.state, lambda state: len(state["phases"]) == 3, 60)
        (learner,) = server.children_of(TEACHER)
    assert not learner.is_running()
    record = json.loads((tmp_path / "teach" / "lesson.json").read_text())
    assert (record["state"], record["name"]) == ("stopped", "waits")
