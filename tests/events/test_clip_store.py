"""Pictures of events on disk: whole or not there, bounded in bytes and days, and nowhere but in their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stmixer.service.errors import StartError
from stmixer.service.events.clips import DAY_S, ClipStore, Kind

BEGAN = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, most_bytes: int = 1_000_000, days: float = 10, clock: Clock | None = None) -> ClipStore:
    store = ClipStore(folder, most_bytes, days * DAY_S, clock or Clock())
    store.open()
    return store


def put(store: ClipStore, event_id: str, size: int, kind: Kind = "mp4") -> bool:
    part = store.begin(event_id, kind)
    os.write(part.fd, b"x" * size)
    return store.commit(part)


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def test_what_is_kept_is_there_whole_and_for_nobody_else_on_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "clips"
    store = opened(folder)
    part = store.begin("abc", "mp4")
    os.write(part.fd, b"half")
    assert store.find("abc", "mp4") is None
    assert store.commit(part)
    found = store.find("abc", "mp4")
    assert found is not None
    assert found.read_bytes() == b"half"
    assert found.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert store.bytes == 4
    assert store.find("abc", "jpg") is None
    assert names(folder) == {"abc.mp4"}


def test_what_does_not_become_whole_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.abandon(store.begin("abc", "mp4"))
    assert names(tmp_path) == set()
    os.write(store.begin("abc", "mp4").fd, b"half")  # and then the process was killed
    assert names(tmp_path) == {".abc.mp4.part"}
    opened(tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../abc", "a/b", "/etc/passwd", "a\0b", "a.mp4", "-a", "a" * 65, "ä", "a\n", "%2e%2e"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "abc.mp4").write_bytes(b"of somebody else")
    store = opened(tmp_path / "clips")
    assert store.find(name, "mp4") is None
    with pytest.raises(ValueError, match="letters"):
        store.begin(name, "mp4")
    assert names(tmp_path) == {"abc.mp4", "clips"}


def test_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "clips"
    secret.write_bytes(b"mine")
    store = opened(folder)
    (folder / "abc.mp4").symlink_to(secret)
    (folder / ".abc.mp4.part").symlink_to(secret)
    assert store.find("abc", "mp4") is None
    assert put(store, "abc", 10)
    assert secret.read_bytes() == b"mine"


def test_the_oldest_give_way_with_their_pictures_and_nothing_that_is_not_ours(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, 1000, clock=clock)
    (tmp_path / "notes.txt").write_bytes(b"n" * 5000)
    (tmp_path / "mine.mp4.bak").write_bytes(b"n" * 5000)
    for number in range(4):
        clock.now += 10
        assert put(store, f"event{number}", 50, "jpg")
        clock.now += 10
        assert put(store, f"event{number}", 300)
    assert store.bytes == 700
    assert names(tmp_path) == {
        "notes.txt", "mine.mp4.bak", "event2.jpg", "event2.mp4", "event3.jpg", "event3.mp4",
    }  # fmt: skip
    clock.now += 10
    assert not put(store, "event4", 1001), "larger than all that may be: it is not worth all others"
    assert store.bytes == 700
    assert len(names(tmp_path)) == 6


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, days=2, clock=clock)
    put(store, "first", 10)
    clock.now += 1.5 * DAY_S
    put(store, "second", 10)
    assert names(tmp_path) == {"first.mp4", "second.mp4"}
    clock.now += DAY_S
    assert store.trim() == 1
    assert names(tmp_path) == {"second.mp4"}
    clock.now += 2 * DAY_S
    assert opened(tmp_path, days=2, clock=clock).bytes == 0
    assert names(tmp_path) == set()


def test_another_process_counts_what_is_there(tmp_path: Path) -> None:
    put(opened(tmp_path), "abc", 700)
    store = opened(tmp_path)
    assert store.bytes == 700
    assert store.find("abc", "mp4") is not None


def test_a_folder_that_cannot_be_used_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartError, match="--event-clips"):
        opened(tmp_path / "file" / "clips")
    with pytest.raises(StartError, match="--event-clips"):
        opened(tmp_path / "file")
