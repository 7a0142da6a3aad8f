"""Sets of pictures: stills, those without people too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from training import IMAGES, PICTURE_BOXES, own_set, picture_set, run_config

from stmixer.model.card import ModelCard
from stmixer.model.clip import window
from stmixer.model.detector import build
from stmixer.model.labels import Label
from stmixer.model.zoo import variant
from stmixer.trainer.config.file import parse_config
from stmixer.trainer.config.run import AugmentSection, CachedFeaturesSection, PictureSet
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.clipset import ClipSet, ClipSource
from stmixer.trainer.data.pictures import read_pictures
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.records import POSTURES, Split
from stmixer.trainer.data.segments import SegmentSet
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluate.evaluation import read_frame
from stmixer.trainer.evaluate.network import LoadedNetwork, run_network
from stmixer.trainer.long_term.bank import every_second


def read(root: Path, allowed: tuple[str, ...] | None = None, **config: Any) -> Split:
    return read_pictures(PictureSet(kind="pictures", **config), root, "train", allowed)


def sources(root: Path, **config: Any) -> tuple[ClipSource, ...]:
    """The pictures, and the repository's clips beside them, which have labels."""
    picture_set(root / "stills")
    own_set(root / "own", "train")
    sets = [
        {"kind": "pictures", "root": "stills", "parts": ["train"]} | config,
        {"kind": "custom", "root": "own", "parts": ["train"]},
    ]
    return load_data(run_config(root, sets=sets), ("train",)).train


def test_every_picture_is_a_keyframe(tmp_path: Path) -> None:
    split = read(picture_set(tmp_path))
    assert [split.videos[v].name for v in split.video] == ["street.png", "room.png", "empty.png"]
    assert np.diff(split.starts).tolist() == [3, 2, 0]
    assert split.crowd.tolist() == [False, False, True, False, False]
    assert [POSTURES[p] for p in split.posture] == ["stand", "unknown", "unknown", "lie", "crouch"]
    assert split.labels == ()
    assert split.annotated.shape == (5, 0)
    assert split.origin == "mixed"


def test_postures_that_are_labels_are_known_of_whom_they_are_said(tmp_path: Path) -> None:
    split = read(picture_set(tmp_path), postures={"lie": "lie", "sit": "sit"})
    assert split.labels == ("lie", "sit")
    assert split.actions.tolist() == [[False, False]] * 3 + [[True, False], [False, False]]
    assert split.annotated.all(1).tolist() == [True, False, False, True, True], "who stands does not lie"
    assert split.annotated.any(1).tolist() == split.annotated.all(1).tolist()
    with pytest.raises(TrainError, match="has sit, not among the run's labels"):
        read(tmp_path, ("lie", "walk"), postures={"lie": "lie", "sit": "sit"})


def test_labels_of_pictures(tmp_path: Path) -> None:
    lines = PICTURE_BOXES.splitlines()
    ends = ("label", "walk", "none", "", "", "wave", "walk")
    boxes = "\n".join(f"{line},{end}" for line, end in zip(lines, ends, strict=True))
    split = read(picture_set(tmp_path, boxes=boxes), postures={"lie": "lie"})
    assert split.labels == ("lie", "walk", "wave")
    assert split.actions.astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert split.annotated.astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]


def test_a_label_that_came_from_a_posture_says_nothing_of_other_labels(tmp_path: Path) -> None:
    boxes = (
        "image,x1,y1,x2,y2,posture,label\n"
        "street.png,0.0,0,0.5,0.5,lie,\nstreet.png,0.1,0,0.5,0.5,stand,lie\nstreet.png,0.2,0,0.5,0.5,unknown,fall\n"
    )
    split = read(picture_set(tmp_path, boxes=boxes), postures={"lie": "lie"})
    assert split.labels == ("lie", "fall")
    assert split.actions.astype(int).tolist() == [[1, 0], [1, 0], [0, 1]]
    assert split.annotated.astype(int).tolist() == [[1, 0], [1, 1], [1, 1]], "who lies may have fallen"


def test_one_row_of_a_person_says_the_posture(tmp_path: Path) -> None:
    boxes = (
        "image,x1,y1,x2,y2,posture,label\n"
        "street.png,0.1,0.2,0.3,0.8,,wave\nstreet.png,0.1,0.2,0.3,0.8,lie,fall\nstreet.png,0.5,0.2,0.7,0.8,sit,\n"
    )
    split = read(picture_set(tmp_path, boxes=boxes), postures={"lie": "lie"})
    assert np.diff(split.starts).tolist() == [2, 0, 0], "two people, not three"
    assert [POSTURES[p] for p in split.posture] == ["lie", "sit"]
    assert split.actions.astype(int).tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (IMAGES.replace("room.png,train", "room.png,test"), PICTURE_BOXES, r"images\.csv:3: split 'test' is neither"),
        (IMAGES.replace("empty.png", "room.png"), PICTURE_BOXES, r"images\.csv:4: room\.png a second time"),
        (IMAGES.replace("empty.png", "../empty.png"), PICTURE_BOXES, r"images\.csv:4: .* no name inside images/"),
        (
            IMAGES,
            PICTURE_BOXES.replace("room.png", "hall.png"),
            r"boxes\.csv:5: image 'hall\.png' is not in images\.csv",
        ),
        (IMAGES, PICTURE_BOXES.replace("crouch", "hover"), r"boxes\.csv:6: posture 'hover' is none of"),
        (
            IMAGES,
            PICTURE_BOXES + "room.png,0.1,0.5,0.6,0.8,stand,0,true\n",
            r"boxes\.csv:8: the same box has two postures, lie and stand",
        ),
        (
            IMAGES,
            PICTURE_BOXES + "street.png,0.1,0.2,0.3,0.8,stand,1,true\n",
            r"boxes\.csv:8: the same box is a person in one row and an area to ignore",
        ),
        (IMAGES, PICTURE_BOXES.replace("0.6,0.0,1.0", "0.6,0.0,1.5"), r"boxes\.csv:4: box .* lies outside 0–1"),
        (IMAGES, PICTURE_BOXES.replace("stand,1", "stand,yes"), r"boxes\.csv:4: crowd 'yes' is neither 0 nor 1"),
    ],
)
def test_faults_are_named_by_file_and_row(tmp_path: Path, images: str, boxes: str, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        read(picture_set(tmp_path, images, boxes))


def test_a_posture_that_nobody_can_have_is_refused() -> None:
    with pytest.raises(TrainError, match="postures"):
        parse_config({"run_dir": ".", "sets": [{"kind": "pictures", "postures": {"hover": "fly"}}]})
    for nothing in ("", " ", "none"):
        with pytest.raises(TrainError, match=f"postures: '{nothing}' is no label; leave out sit"):
            parse_config({"run_dir": ".", "sets": [{"kind": "pictures", "postures": {"lie": "lie", "sit": nothing}}]})


def test_pictures_that_are_not_there_are_said_before_training(tmp_path: Path) -> None:
    picture_set(tmp_path)
    (tmp_path / "images" / "room.png").unlink()
    (tmp_path / "images" / "empty.png").write_bytes(b"no picture")
    sets = [{"kind": "pictures", "parts": ["train"], "postures": {"lie": "lie"}}]
    with pytest.raises(TrainError) as raised:
        load_data(run_config(tmp_path, sets=sets), ("train",))
    assert len(raised.value.lines) == 2
    assert all("is missing or no picture" in line for line in raised.value.lines)


def test_a_thorough_check_finds_pictures_that_are_cut_off(tmp_path: Path) -> None:
    picture_set(tmp_path, IMAGES.replace("room.png", "room.jpg"), PICTURE_BOXES.replace("room.png", "room.jpg"))
    rng = np.random.default_rng(0)
    path = tmp_path / "images" / "room.jpg"
    cv2.imwrite(str(path), rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    split = read(tmp_path)
    check_split(split, "full")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    check_split(split, "quick")
    with pytest.raises(TrainError, match=r"room\.jpg is cut off or broken") as raised:
        check_split(split, "full")
    assert len(raised.value.lines) == 1


def test_a_clip_of_a_picture_is_that_picture_all_along(tmp_path: Path) -> None:
    pictures = sources(tmp_path)
    config = variant("tiny")
    clips = ClipSet(pictures, config, None, 0)
    street, empty = (clips[Draw(0, k, (0,))] for k in (0, 2))
    assert street.frames.shape == (len(window(config.clip).offsets), 128, 192, 3)
    assert all(torch.equal(frame, street.frames[0]) for frame in street.frames)
    assert len(street.target.boxes_xyxy_px) == 2
    torch.testing.assert_close(street.target.ignore_xyxy_px, torch.tensor([[0.6 * 192, 0, 192, 64]]))
    assert not street.target.annotated.any(), "no action is annotated"
    assert (len(empty.target.boxes_xyxy_px), len(empty.target.ignore_xyxy_px)) == (0, 0)
    still = ClipSet(pictures, config, None, 0, stills=True)[Draw(0, 0, (0,))]
    assert torch.equal(still.frames[0], street.frames[0])
    assert len(still.frames) == 1


def test_pictures_and_clips_stand_in_one_mosaic(tmp_path: Path) -> None:
    pictures = sources(tmp_path)
    clips = ClipSet(pictures, variant("tiny"), AugmentSection(mosaic=1.0, short_sides=(256,)), 0)
    targets = [clips[Draw(0, 0, (number,))].target for number in range(12)]
    assert any(target.annotated.any() and len(target.ignore_xyxy_px) for target in targets)
    assert all(len(target.ignore_xyxy_px) >= 1 for target in targets), "the picture's own area goes with it"


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_segments_of_pictures(tmp_path: Path, mosaic: float) -> None:
    """Alone a picture is one clip; in a mosaic its people are there at all times."""
    picture_set(tmp_path)
    sets = [{"kind": "pictures", "parts": ["train"], "postures": {"lie": "lie"}}]
    pictures = load_data(run_config(tmp_path, sets=sets), ("train",)).train
    config = variant("rt_lite0")
    chances = AugmentSection(mosaic=mosaic, short_sides=(224,), within=3.0, flip=0.0)
    segments = SegmentSet(pictures, config, chances, CachedFeaturesSection(segments=8, samples=16), 0, 0)
    span = window(config.clip).span
    seen = set()
    for number in range(8):
        segment = segments[number]
        assert len(segment.clip.frames) == (16 if mosaic else span)
        assert len(segment.keyframes) == len(segment.clip.frames) - span + 1
        counts = {int((segment.clip.at == keyframe).sum()) for keyframe in segment.keyframes}
        assert len(counts) == 1
        seen |= counts
        assert set(segment.clip.at.tolist()) <= set(segment.keyframes.tolist())
    assert len(seen) > 1, "other pictures, other people"


def test_other_readers_of_sources_know_pictures(tmp_path: Path) -> None:
    source = sources(tmp_path)[0]
    shown = read_frame(source, "room.png", 0)
    assert np.array_equal(shown, cv2.imread(str(tmp_path / "stills" / "images" / "room.png"))[:, :, ::-1])
    assert len(every_second("stills", source.split.videos)) == 3, "a clip of each"


def test_a_network_runs_over_pictures(tmp_path: Path) -> None:
    picture_set(tmp_path)
    sets = [{"kind": "pictures", "postures": {"lie": "lie"}}]
    config = run_config(tmp_path, sets=sets)
    data = load_data(config)
    detector = build(variant("tiny", classes=1), seed=0)
    network = LoadedNetwork(detector, ModelCard(detector.config, (Label(1, "lie"),), trained=False))
    (done,) = run_network(network, data.val, config, torch.device("cpu"))
    assert [draw.keyframe for draw in done.batch.draws] == [0]
