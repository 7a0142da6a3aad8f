"""A lesson and the process that learns, here a stand-in: begun, followed, ended when asked, kept, discarded."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import stand_in_teacher
from ws_client import poll

from stmixer.service.errors import InputError, StartError
from stmixer.service.ipc.child import STARTS_PYTHON
from stmixer.service.teach_schemas import Teach, TeachTrial
from stmixer.service.teaching.begin import MOST_FILE_BYTES, NICENESS
from stmixer.service.teaching.process import GRACE_S
from stmixer.service.teaching.teaching import Teaching

NO_TRIAL = TeachTrial(state="off", says="")
END_S = 2.0


async def put(teaching: Teaching, label: str, content: bytes = b"film") -> int:
    new = await teaching.begin_clip(label, None)
    os.write(new.fd, content)
    return (await teaching.commit_clip(new)).clip_id


def opened(folder: Path) -> Teaching:
    teaching = Teaching(folder, 2**20, 600.0, "stand_in_teacher")
    teaching.open()
    return teaching


@asynccontextmanager
async def lesson(folder: Path) -> AsyncIterator[Teaching]:
    """With a clip in it."""
    teaching = opened(folder)
    await put(teaching, "wave")
    try:
        yield teaching
    finally:
        await teaching.close()


async def until(teaching: Teaching, accept: Callable[[Teach], bool]) -> Teach:
    """How it stands once that is so."""
    async with asyncio.timeout(60):
        while True:
            if accept(state := await teaching.state(NO_TRIAL)):
                return state
            await asyncio.sleep(0.01)


def ended(state: Teach) -> bool:
    return state.state != "learning"


def learns(state: Teach) -> bool:
    return any(phase.phase == "learn" for phase in state.phases)


def run(work: Callable[[Teaching], Awaitable[None]], folder: Path) -> None:
    async def within() -> None:
        async with lesson(folder) as teaching:
            await work(teaching)

    asyncio.run(within())


def test_it_is_learned_and_kept(tmp_path: Path) -> None:
    async def work(teaching: Teaching) -> None:
        await teaching.begin("mine")
        state = await until(teaching, ended)
        assert (state.state, state.name, state.says) == ("done", "mine", "")
        assert state.figures is not None
        assert state.figures.model_dump() == stand_in_teacher.FIGURES
        assert [phase.came for phase in state.phases] == ["3 clips", "somebody in 3 of 3 clips", "the best is kept"]
        assert state.notes == ["clips/wave/9.mp4 is left out: nobody was found in it"]
        assert state.pictures
        assert teaching.outcome == tmp_path / "work" / "mine.safetensors"
        kept = await teaching.keep()
        assert kept.serve == f"stmixer serve --weights {tmp_path / 'kept' / 'mine.safetensors'}"
        state = await teaching.state(NO_TRIAL)
        assert (state.state, state.figures, state.kept) == ("open", None, [kept])
        assert len(state.clips) == 1, "the clips stay until they are discarded"
        names = {path.name for path in (tmp_path / "kept").iterdir()}
        assert names == {"mine.safetensors", "mine.onnx", "mine.frame.onnx", "mine.clip.onnx"}
        with pytest.raises(InputError, match="kept already"):
            await teaching.begin("mine")
        with pytest.raises(InputError, match="nothing has been learned"):
            await teaching.keep()

    run(work, tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fails", "wave has one clip; add another one to clips/wave"),
        ("absent", "torch not installed; pip install 'stmixer[train]' brings what is missing"),
        ("dies", "the process that learns ended by SIGKILL"),
    ],
)
def test_a_lesson_that_fails_says_why(tmp_path: Path, name: str, says: str) -> None:
    async def work(teaching: Teaching) -> None:
        await teaching.begin(name)
        state = await until(teaching, ended)
        assert (state.state, state.says, state.figures) == ("failed", says, None)
        assert [phase.running for phase in state.phases] == [False]
        with pytest.raises(InputError) as refused:
            await teaching.keep()
        assert (refused.value.code, refused.value.status) == ("not_learned", 409)
        await teaching.begin("mine")  # another one may follow
        assert (await until(teaching, ended)).state == "done"

    run(work, tmp_path)


@pytest.mark.parametrize("name", ["waits", "deaf"])
def test_it_ends_when_it_is_asked_to_and_takes_its_own_with_it(tmp_path: Path, name: str) -> None:
    async def work(teaching: Teaching) -> None:
        await teaching.begin(name)
        assert GRACE_S < END_S
        await until(teaching, lambda state: len(state.notes) == 2 if name == "deaf" else learns(state))
        assert teaching._process is not None
        group = os.getpgid(teaching._process.pid)
        before = {process.pid for process in psutil.process_iter() if _group(process.pid) == group}
        assert len(before) == (2 if name == "deaf" else 1)
        await teaching.stop()
        state = await teaching.state(NO_TRIAL)
        assert (state.state, state.says) == (
            "stopped", "stopped during learn; what is done is kept, and goes on when it is begun again",
        )  # fmt: skip
        assert poll(lambda: not [pid for pid in before if psutil.pid_exists(pid) and _runs(pid)], 20)

    run(work, tmp_path)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def expendable(pid: str) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_process_is_one_that_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low priority, a bounded environment without secrets of ours, and a folder of its own."""
    monkeypatch.setenv("STMIXER_CLIENT_KEY", "hunter2")

    async def work(teaching: Teaching) -> None:
        await teaching.begin("waits")
        await until(teaching, learns)
        assert teaching._process is not None
        process = psutil.Process(teaching._process.pid)
        assert process.nice() == min(19, os.nice(0) + NICENESS)
        assert process.cwd() == str(tmp_path / "work")
        environment = process.environ()
        own = {"HOME", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH", "OMP_WAIT_POLICY", "LC_CTYPE"}
        assert set(environment) <= own | set(STARTS_PYTHON)
        assert environment["HOME"] == str(tmp_path / "work")
        assert process.rlimit(psutil.RLIMIT_FSIZE)[0] <= MOST_FILE_BYTES
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert process.cmdline()[1:4] == ["-P", "-m", "stand_in_teacher"]
        assert expendable(str(process.pid)) >= expendable("self")

    run(work, tmp_path)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != MOST_FILE_BYTES


def test_it_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys
from stmixer.service.teaching.process import LessonProcess

async def main(folder):
    arguments = ("teach", "clips", "-o", "waits.safetensors", "--json")
    process = await LessonProcess.begin("stand_in_teacher", arguments, folder)
    await process.follow(lambda line: print(process.pid, line.decode(), end="", flush=True))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as parent:
        assert parent.stdout is not None
        line = next(line for line in parent.stdout if b'"learn"' in line)
        learner = int(line.split()[0])
        assert _runs(learner)
        parent.kill()
    assert poll(lambda: not _runs(learner), 20)


def test_one_at_a_time_and_nothing_moves_while_it_learns(tmp_path: Path) -> None:
    async def work(teaching: Teaching) -> None:
        coming = await teaching.begin_clip("wave", None)
        await teaching.begin("waits")
        await until(teaching, learns)
        for refused in (
            teaching.begin("mine"), teaching.keep(), teaching.remove_clip(1), teaching.begin_clip("wave", None),
            teaching.commit_clip(coming),
        ):  # fmt: skip
            with pytest.raises(InputError) as error:
                await refused
            assert (error.value.code, error.value.status) == ("learning", 409)
        assert len((await teaching.state(NO_TRIAL)).clips) == 1

    run(work, tmp_path)


def test_discard_deletes_all_but_what_was_kept(tmp_path: Path) -> None:
    async def work(teaching: Teaching) -> None:
        await teaching.begin("mine")
        await until(teaching, ended)
        await teaching.keep()
        await teaching.begin("waits")
        await until(teaching, learns)
        await teaching.discard()
        state = await teaching.state(NO_TRIAL)
        assert (state.state, state.clips, state.pictures, state.phases) == ("open", [], False, [])
        assert [kept.name for kept in state.kept] == ["mine"]
        assert [path.name for path in (tmp_path / "work").iterdir()] == []
        with pytest.raises(InputError) as error:
            await teaching.begin("mine2")
        assert error.value.code == "no_clips"

    run(work, tmp_path)


def test_under_another_name_it_goes_on_with_what_it_has(tmp_path: Path) -> None:
    async def work(teaching: Teaching) -> None:
        await teaching.begin("first")
        await until(teaching, ended)
        await teaching.begin("second")
        await until(teaching, ended)
        there = {path.name for path in (tmp_path / "work").iterdir()}
        assert there == {
            "second.safetensors", "second.onnx", "second.frame.onnx", "second.clip.onnx", "second.teach", "tmp",
        }  # fmt: skip

    run(work, tmp_path)


def test_what_is_known_over_a_restart(tmp_path: Path) -> None:
    async def first() -> None:
        async with lesson(tmp_path) as teaching:
            await teaching.begin("mine")
            await until(teaching, ended)

    async def second() -> None:
        teaching = opened(tmp_path)
        state = await teaching.state(NO_TRIAL)
        assert (state.state, state.name, len(state.clips), state.pictures) == ("done", "mine", 1, True)
        assert state.figures is not None
        assert teaching.outcome.is_file()
        await teaching.begin("waits")
        await until(teaching, learns)
        held, teaching._held = teaching._held, None
        assert held is not None
        os.close(held)  # as if the service had been killed in its middle
        third = opened(tmp_path)
        state = await third.state(NO_TRIAL)
        assert (state.state, state.says) == (
            "stopped", "the service ended while it learned; what is done is kept, and goes on when it is begun again",
        )  # fmt: skip
        await third.close()
        await teaching.close()

    asyncio.run(first())
    asyncio.run(second())


def test_two_services_do_not_teach_in_one_folder(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(StartError, match="another service teaches there"):
        opened(tmp_path)
    asyncio.run(first.close())
    asyncio.run(opened(tmp_path).close())


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"--teach-dir .*/file/teach: Not a directory"):
        opened(tmp_path / "file" / "teach")


@pytest.mark.parametrize("text", ["", "{", '{"state": "dancing"}', '{"name": "../etc"}', '{"name": "a", "more": 1}'])
def test_a_record_that_is_none_is_a_new_lesson(tmp_path: Path, text: str) -> None:
    (tmp_path / "lesson.json").write_text(text)
    teaching = opened(tmp_path)
    state = asyncio.run(teaching.state(NO_TRIAL))
    assert (state.state, state.name) == ("open", "my-actions")
    asyncio.run(teaching.close())
