"""The four layouts read into one form."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from training import BOXES, CLIPS, custom_set, gt_layout, run_config, write_ava

from stmixer.trainer.config.run import AvaSet, CustomSet, TubeSet
from stmixer.trainer.data.ava import read_ava
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.sets import label_list, load_data
from stmixer.trainer.data.tubes import read_tubes
from stmixer.trainer.data.unpickle import read_pickle
from stmixer.trainer.errors import TrainError


def test_custom_set(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    split = read_custom(CustomSet(kind="custom", name="mine"), tmp_path, "train", None)
    assert split.labels == ("walk", "wave")
    assert split.frame.tolist() == [0, 3, 10], "a frame without rows is no keyframe"
    assert split.people(0) == slice(0, 2)
    assert split.actions.tolist()[:2] == [[True, True], [False, False]], "rows of one box are one person"
    assert split.annotated.tolist() == [[True] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert not split.crowd.any()
    assert split.track.tolist() == [7, 8, 7, 7]
    assert split.origin == "true"
    val = read_custom(CustomSet(kind="custom"), tmp_path, "val", None)
    assert (val.frame.tolist(), val.track.tolist(), val.origin) == ([5], [-1], "pseudo")


def test_evaluation_keyframes_are_all_that_is_annotated(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "val", "fall.mp4": "val"})
    everywhere = [("walk.mp4", 0), ("walk.mp4", 3), ("walk.mp4", 10), ("fall.mp4", 5)]
    sets = [{"kind": "custom", "parts": ["val"]}]
    for step, wanted in ((1, everywhere), (5, [each for each in everywhere if each[1] != 3]), (3, everywhere[:2])):
        config = run_config(tmp_path, sets=sets, labels=["walk", "wave"], evaluate={"every": step})
        val = load_data(config, ("val",)).val[0].split
        assert [(val.videos[v].name, f) for v, f in zip(val.video, val.frame, strict=True)] == wanted
    with pytest.raises(TrainError, match="val: the split is empty: no annotated frame has a multiple of 7"):
        read_custom(CustomSet(kind="custom", exclude=("walk.mp4",)), tmp_path, "val", None, step=7)
    custom_set(tmp_path, BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    third = read_custom(CustomSet(kind="custom", keyframe_every=3), tmp_path, "train", None)
    assert third.frame.tolist() == [0, 3]


def test_receivers_are_negative_for_what_the_set_annotates(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    split = read_custom(CustomSet(kind="custom", unlabelled="negative"), tmp_path, "train", None)
    assert split.annotated.all()
    actions, annotated = split.relabelled(["sit", "wave", "walk"])
    assert actions.tolist()[:2] == [[False, True, True], [False, False, False]]
    assert annotated.tolist()[:2] == [[False, True, True], [False, True, True]]


def test_unknown_actions_and_foreign_labels_are_not_annotated(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    split = read_custom(CustomSet(kind="custom"), tmp_path, "train", None)
    _, annotated = split.relabelled(["sit", "wave", "walk"])
    assert annotated.tolist()[:2] == [[False, True, True], [False, False, False]]


def test_keyframes_lie_where_the_container_shows_the_frame(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    split = check_split(read_custom(CustomSet(kind="custom"), tmp_path, "val", None), "quick")
    assert split.pts_us.tolist() == [round(5e6 / 15)]
    full = check_split(read_custom(CustomSet(kind="custom"), tmp_path, "val", None), "full")
    assert full.pts_us.tolist() == split.pts_us.tolist()


def test_labels_of_mixed_sets_make_one_list(tmp_path: Path) -> None:
    custom_set(tmp_path / "a", BOXES, {"walk.mp4": "train", "fall.mp4": "val"})
    custom_set(tmp_path / "b", BOXES.replace("wave", "sit"), {"walk.mp4": "train", "fall.mp4": "val"})
    config = run_config(tmp_path, sets=[{"kind": "custom", "root": "a"}, {"kind": "custom", "root": "b"}])
    data = load_data(config)
    assert data.labels == ("walk", "wave", "sit")
    assert data.train[0].annotated[0].tolist() == [True, True, False]
    assert data.train[1].annotated[0].tolist() == [True, False, True]
    assert [label.id for label in label_list(data.labels)] == [1, 2, 3]


def test_ava(tmp_path: Path) -> None:
    write_ava(tmp_path)
    train = check_split(read_ava(AvaSet(kind="ava"), tmp_path, "train"), "full")
    assert train.frame.tolist() == [902, 903, 904]
    assert train.pts_us.tolist() == [2_000_000, 3_000_000, 4_000_000]
    assert np.flatnonzero(train.actions[0]).tolist() == [11, 79], "actions count from 1"
    assert train.annotated.all()
    assert train.track.tolist() == [3, -1, 1]
    val = read_ava(AvaSet(kind="ava"), tmp_path, "val")
    assert val.frame.tolist() == [902, 903, 905], "without the excluded one; nobody at 905"
    assert np.diff(val.starts).tolist() == [1, 1, 0]
    assert label_list(val.labels)[11].id == 12


def test_ava_frame_lists_with_a_gap_are_refused(tmp_path: Path) -> None:
    write_ava(tmp_path)
    path = tmp_path / "frame_lists" / "train.csv"
    path.write_text(path.read_text().replace("vid 0 5 vid/vid_000006", "vid 0 5 vid/vid_000009"))
    with pytest.raises(TrainError, match=r"train\.csv:7: vid/vid_000009\.jpg breaks the numbering of vid"):
        read_ava(AvaSet(kind="ava"), tmp_path, "train")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_tubes(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "JHMDB-GT.pkl").write_bytes(pickle.dumps(gt_layout(), protocol=protocol))
    config = TubeSet(kind="jhmdb")
    train = read_tubes(config, tmp_path, "train", 1)
    assert (train.labels, train.frame.tolist()) == (("catch", "walk"), [0, 1, 2])
    assert train.boxes_xyxy[0].tolist() == pytest.approx([10 / 320, 20 / 240, 110 / 320, 220 / 240])
    assert train.actions.tolist() == [[False, True]] * 3
    assert train.sizes_wh is not None
    assert train.sizes_wh.tolist() == [[320, 240]]
    val = read_tubes(config, tmp_path, "val", 1)
    assert val.frame.tolist() == [0, 1, 2, 3], "every frame of a test video"
    assert np.diff(val.starts).tolist() == [1, 1, 0, 0]
    assert len(read_tubes(config, tmp_path, "train", 3)) == 5


class Opens:
    """A pickle that would run a command: to leave a mark in the folder where the test runs."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (__import__("os").system, ("touch pickle-was-run",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Opens(), "it names posix.system, which is not loaded"),
        ({"labels": Path("x")}, "which is not loaded"),
        (np.array([{}, 1], dtype=object), "arrays of objects"),
    ],
)
def test_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(TrainError, match=message):
        read_pickle(path)
    assert not Path("pickle-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04K", pickle.dumps(gt_layout())[:-40]])
def test_damaged_pickles_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(TrainError, match=r"a\.pkl"):
        read_pickle(path)


def test_the_own_clips_have_their_boxes(tmp_path: Path) -> None:
    from training import own_set

    own_set(tmp_path, "val")
    split = check_split(read_custom(CustomSet(kind="custom"), tmp_path, "val", None), "quick")
    assert split.labels == ("fall", "stand", "walk")
    assert (len(split), split.origin) == (19, "mixed")
    assert (CLIPS / "walk.mp4").exists()
