"""What lies in a folder that somebody teaches by: labels, scenes, what is left out, and what is kept to check by."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from training import CLIPS

from stmixer.trainer.errors import TrainError
from stmixer.trainer.teach.clips import (
    LabelledClip,
    SkippedClip,
    check_clips,
    empty_folders,
    find_clips,
    is_handed,
    labels_of,
    look,
)
from stmixer.trainer.teach.split import split_clips


def folder(root: Path, *names: str) -> Path:
    """Empty files of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def clips(root: Path, *names: str) -> list[LabelledClip]:
    return find_clips(folder(root, *names), root / "out.teach")


def fault(root: Path, *names: str) -> str:
    def check() -> None:
        found = clips(root, *names)
        check_clips(found, labels_of(found), root)

    with pytest.raises(TrainError) as caught:
        check()
    return str(caught.value)


def test_labels_and_scenes(tmp_path: Path) -> None:
    found = clips(
        tmp_path, "wave/a.mp4", "wave/park__1.MOV", "wave/hall/b.mp4", "saut à pieds joints/hall/c 1.webm",
        "none/d.mkv", "wave/readme.txt", "wave/.hidden.mp4", "out.teach/taught/videos/wave/a.mp4",
        "earlier.teach/taught/videos/wave/a.mp4", ".trash/wave/a.mp4",
    )  # fmt: skip
    assert [(clip.name, clip.label, clip.scene) for clip in found] == [
        ("none/d.mkv", None, "clip none/d.mkv"),
        ("saut à pieds joints/hall/c 1.webm", "saut à pieds joints", "scene hall"),
        ("wave/a.mp4", "wave", "clip wave/a.mp4"),
        ("wave/hall/b.mp4", "wave", "scene hall"),
        ("wave/park__1.MOV", "wave", "scene park"),
    ]
    assert labels_of(found) == ("saut à pieds joints", "wave")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["wave/a.jpg", "wave/b.png"], "holds 2 pictures and no video; put short videos of each action into"),
        (["wave/a.txt"], "holds no video; put short videos of each action into"),
        (["a.mp4", "wave/b.mp4"], "a.mp4 lies beside the labels; put every clip into the folder of its label"),
        (["a;b/a.mp4"], "a label may not have a semicolon in it; rename the folder"),
        ([" wave/a.mp4"], "a label may not begin or end with a blank, nor break its line; rename '"),
        (["wave\n/a.mp4"], "a label may not begin or end with a blank, nor break its line; rename '"),
        (["wave/a.mp4", "fall/a.mp4", "fall/b.mp4"], "wave has one clip; add another one to"),
        (["wave/a.mp4"], "wave has one clip; add another one to"),
        (["wave/a.mp4", "wave/b.mp4"], "wave alone cannot be told from anything; add the folder of another label, or"),
        (["none/a.mp4", "none/b.mp4"], "holds no clip to learn from; put short videos of people into"),
    ],
)
def test_too_little_is_said_in_one_line(tmp_path: Path, names: list[str], says: str) -> None:
    told = fault(tmp_path, *names)
    assert says in told
    assert len(told.splitlines()) == 1


def test_one_label_and_none_of_it_will_do(tmp_path: Path) -> None:
    check_clips(clips(tmp_path, "wave/a.mp4", "wave/b.mp4", "none/c.mp4"), ("wave",), tmp_path)


def test_one_label_and_people_of_other_sets_will_do(tmp_path: Path) -> None:
    check_clips(clips(tmp_path, "wave/a.mp4", "wave/b.mp4"), ("wave",), tmp_path, others=True)


def test_none_however_it_is_written_and_folders_without_clips(tmp_path: Path) -> None:
    found = clips(tmp_path, "wave/a.mp4", "None/b.mp4", "NONE/c.mp4", "fall/readme.txt", "old.teach/x", ".git/x")
    assert [clip.label for clip in found] == [None, None, "wave"]
    assert empty_folders(tmp_path, found) == [tmp_path / "fall"]


def test_folders_may_be_links_and_loops_end(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", "a.mp4", "hall/b.mp4")
    root = folder(tmp_path / "clips", "fall/a.mp4", "out.teach/taught/videos/c.mp4")
    (root / "wave").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(root)
    (root / "fall" / "up").symlink_to(root / "fall")
    (root / "fall" / "work").symlink_to(root / "out.teach")
    found = find_clips(root, root / "out.teach")
    assert [(clip.name, clip.scene) for clip in found] == [
        ("fall/a.mp4", "clip fall/a.mp4"), ("wave/a.mp4", "clip wave/a.mp4"), ("wave/hall/b.mp4", "scene hall")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "handed"),
    [
        ("turn left", True), ("turn_left", True), ("left_hand", True), ("LeftHand", True), ("turnRIGHT", True),
        ("RIGHTHand", True), ("left2", True), ("left-handed", True), ("to_the_Right", True), ("bright light", False),
        ("upright", False), ("cleft", False), ("wave", False), ("gleichrichten", False),
    ],
)  # fmt: skip
def test_a_label_that_a_mirror_makes_wrong(label: str, handed: bool) -> None:
    assert is_handed(label) == handed


def test_a_label_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """All of its clips were left out, and there are others."""
    found = clips(tmp_path, "wave/a.mp4", "wave/b.mp4", "fall/a.mp4", "fall/b.mp4")
    nobody = [SkippedClip(clip.path, "nobody was found in it") for clip in found if clip.label == "fall"]
    with pytest.raises(TrainError, match=r"^fall has no clip to use \(2 were left out, the first since: nobody was fo"):
        check_clips([clip for clip in found if clip.label == "wave"], labels_of(found), tmp_path, nobody)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        TrainError, match=r"gone is no folder; put your clips into .*gone/LABEL/, a folder for each label$"
    ):
        find_clips(tmp_path / "gone", tmp_path / "out.teach")


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    found = clips(tmp_path, "wave/a.mp4", "wave/b.mp4", "wave/broken.mp4")
    for name in ("a", "b"):
        shutil.copy(CLIPS / "walk.mp4", tmp_path / "wave" / f"{name}.mp4")
    (tmp_path / "wave" / "broken.mp4").write_bytes(b"no video at all" * 100)
    told: list[tuple[int, int]] = []
    good, skipped = look(found, lambda done, total: told.append((done, total)))
    assert [clip.name for clip in good] == ["wave/a.mp4", "wave/b.mp4"]
    assert [clip.path.name for clip in skipped] == ["broken.mp4"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(TrainError, match=r"wave has one clip \(1 were left out, the first since: .+\); add another"):
        check_clips(good[:1], ("wave",), tmp_path, skipped)
    nothing = [SkippedClip(tmp_path / "wave" / "a.mp4", "it is no video")]
    with pytest.raises(TrainError, match=r"holds no clip to learn from \(1 were left out, the first since: it is no v"):
        check_clips([], ("wave",), tmp_path, nothing)


def parted(found: list[LabelledClip], root: Path) -> dict[str, dict[str, set[str]]]:
    """Part, then label or none, to scenes."""
    parts: dict[str, dict[str, set[str]]] = {"train": defaultdict(set), "val": defaultdict(set)}
    for clip in found:
        parts[split_clips(found, root)[clip.name]][clip.label or "none"].add(clip.scene)
    return parts


def test_a_scene_is_never_split(tmp_path: Path) -> None:
    names = [
        f"{label}/{scene}__{i}.mp4"
        for label in ("wave", "fall")
        for scene in ("hall", "park", "lake")
        for i in range(3)
    ]
    parts = parted(clips(tmp_path, *names), tmp_path)
    assert parts["val"] == {"wave": {"scene hall"}, "fall": {"scene hall"}}
    assert parts["train"] == {label: {"scene park", "scene lake"} for label in ("wave", "fall")}


def test_every_label_has_some_of_both(tmp_path: Path) -> None:
    """Hall and park are the only scenes of wave, so park, which is small, may be kept, and the street of fall."""
    names = ["wave/hall/1.mp4", "wave/hall/2.mp4", "wave/park/1.mp4", "fall/hall/3.mp4", "fall/a.mp4", "fall/b.mp4"]
    parts = parted(clips(tmp_path, *names, "none/1.mp4", "none/2.mp4"), tmp_path)
    assert parts["val"] == {"wave": {"scene park"}, "fall": {"clip fall/a.mp4"}, "none": {"clip none/1.mp4"}}
    assert parts["train"]["none"] == {"clip none/2.mp4"}


def test_a_quarter_is_kept(tmp_path: Path) -> None:
    found = clips(tmp_path, *(f"{label}/{i:02}.mp4" for label in ("wave", "fall") for i in range(12)))
    parts = split_clips(found, tmp_path)
    assert sum(parts[clip.name] == "val" for clip in found if clip.label == "wave") == 3
    assert parts == split_clips(found[::-1], tmp_path)


def test_clips_of_one_scene_cannot_be_checked(tmp_path: Path) -> None:
    found = clips(tmp_path, "wave/hall__1.mp4", "wave/hall__2.mp4", "fall/a.mp4", "fall/b.mp4")
    with pytest.raises(
        TrainError, match=r"^wave cannot be checked: all its clips are of scene hall; add a clip of ano"
    ):
        split_clips(found, tmp_path)
