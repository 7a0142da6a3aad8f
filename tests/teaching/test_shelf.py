"""Clips on disk: whole or not at all, bounded, by numbers, and nothing followed that leads elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stmixer.service.errors import InputError
from stmixer.service.teaching import shelf as shelves
from stmixer.service.teaching.shelf import Shelf


def opened(folder: Path, most_bytes: int = 1000) -> Shelf:
    shelf = Shelf(folder / "clips", most_bytes)
    shelf.open()
    return shelf


def put(shelf: Shelf, label: str, size: int = 10, scene: str | None = None) -> int:
    new = shelf.begin(label, scene)
    os.write(new.fd, b"x" * size)
    return shelf.commit(new).clip_id


def test_a_clip_is_there_once_it_is_whole(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    new = shelf.begin("water plants", "garden")
    os.write(new.fd, b"x" * 10)
    assert shelf.clips() == []
    assert shelf.commit(new).model_dump() == {"clip_id": 1, "label": "water plants", "scene": "garden", "bytes": 10}
    assert put(shelf, "none") == 2
    assert [(clip.clip_id, clip.label, clip.scene) for clip in shelf.clips()] == [
        (1, "water plants", "garden"), (2, "none", None)
    ]  # fmt: skip
    (folder, file) = (shelf.folder / "water plants", shelf.folder / "water plants" / "garden__1.mp4")
    assert file.read_bytes() == b"x" * 10
    assert (folder.stat().st_mode & 0o077, file.stat().st_mode & 0o077) == (0, 0)
    assert shelf.find(1) == file
    assert shelf.remove(1)
    assert not shelf.remove(1)
    assert not folder.exists()


def test_one_that_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.abandon(shelf.begin("wave", None))
    assert list(shelf.folder.iterdir()) == []
    begun = shelf.begin("wave", None)
    again = opened(tmp_path)  # the service was killed in its middle
    assert list((shelf.folder / "wave").iterdir()) == []
    os.close(begun.fd)
    assert put(again, "wave") == 1


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    put(opened(tmp_path), "wave")
    assert put(opened(tmp_path), "fall") == 2


def test_bytes_are_bounded(tmp_path: Path) -> None:
    shelf = opened(tmp_path, most_bytes=100)
    put(shelf, "wave", 60)
    new = shelf.begin("wave", None)
    os.write(new.fd, b"x" * 41)
    with pytest.raises(InputError) as refused:
        shelf.commit(new)
    assert refused.value.code == "too_large"
    assert [path.name for path in (shelf.folder / "wave").iterdir()] == ["1.mp4"]
    put(shelf, "wave", 40)
    with pytest.raises(InputError):
        shelf.begin("wave", None)


def test_bytes_that_are_being_written_are_bounded_too(tmp_path: Path) -> None:
    shelf = opened(tmp_path, most_bytes=100)
    put(shelf, "wave", 20)
    first, second = shelf.begin("wave", None), shelf.begin("fall", None)
    for new in (first, second):
        os.write(new.fd, b"x" * 40)
        shelf.check_growing(new)
    with pytest.raises(InputError) as refused:
        shelf.begin("sit", None)
    assert refused.value.code == "too_large"
    os.write(second.fd, b"x")
    for new in (first, second):
        with pytest.raises(InputError) as refused:
            shelf.check_growing(new)
        assert (refused.value.code, refused.value.status) == ("too_large", 413)
    shelf.abandon(second)
    shelf.check_growing(first)
    shelf.commit(first)


def test_a_clip_whose_lesson_is_let_go_of_meanwhile(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    new = shelf.begin("wave", None)
    os.write(new.fd, b"x")
    shelf.clear()
    assert put(shelf, "wave") == 2, "the next lesson's has the label's folder"
    for ask in (shelf.check_growing, shelf.commit):
        with pytest.raises(InputError, match="discarded while this clip came in") as refused:
            ask(new)
        assert (refused.value.code, refused.value.status) == ("discarded", 409)
    assert [clip.clip_id for clip in shelf.clips()] == [2]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(new.fd)


def test_labels_and_clips_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "MOST_LABELS", 2)
    monkeypatch.setattr(shelves, "MOST_CLIPS", 3)
    shelf = opened(tmp_path)
    put(shelf, "wave")
    put(shelf, "fall")
    with pytest.raises(InputError, match="2 labels"):
        shelf.begin("sit", None)
    with pytest.raises(InputError, match="'wave' already"):
        shelf.begin("Wave", None)
    coming = shelf.begin("wave", None)  # one that is on its way counts
    with pytest.raises(InputError, match="3 clips"):
        shelf.begin("fall", None)
    shelf.abandon(coming)
    put(shelf, "fall")


def test_what_is_not_ours_is_not_seen(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    put(shelf, "wave")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "7.mp4").write_text("theirs")
    (shelf.folder / "linked").symlink_to(tmp_path / "other")
    (shelf.folder / "wave" / "8.mp4").symlink_to(tmp_path / "other" / "7.mp4")
    (shelf.folder / "wave" / "notes.txt").write_text("9")
    (shelf.folder / ".teach").mkdir()
    assert [clip.clip_id for clip in shelf.clips()] == [1]
    assert [shelf.find(number) for number in (7, 8, 9)] == [None] * 3
    shelf.clear()
    assert (tmp_path / "other" / "7.mp4").read_text() == "theirs"
