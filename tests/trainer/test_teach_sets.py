"""Drafts of clips: who was taken for the actor, kept for the next time, and the sets that training reads."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from training import CLIPS, custom_set

from stmixer.trainer.annotate.person_detector import People
from stmixer.trainer.annotate.tracks import Track
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.errors import TrainError
from stmixer.trainer.teach.actor import actor
from stmixer.trainer.teach.clips import LabelledClip, SkippedClip
from stmixer.trainer.teach.drafts import EVERY, DraftedClip, Drafts
from stmixer.trainer.teach.page import draft_page
from stmixer.trainer.teach.taught_set import CHECKED_BY, write_sets

ACTOR, OTHER = (0.4, 0.2, 0.6, 0.9), (0.0, 0.4, 0.1, 0.6)
LABELS = ("fall", "walk")


class Standing:
    """In a model's place: two people who stand still, found with these scores."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores or (0.9, 0.8)

    def find(self, rgb: np.ndarray) -> People:
        return People(np.array([OTHER, ACTOR]), np.array(self.scores))


def track(box: tuple[float, ...], steps: int, score: float = 0.8) -> Track:
    return Track(list(range(steps)), [np.array(box)] * steps, [score] * steps)


def clip(root: Path, name: str, label: str | None) -> LabelledClip:
    path = root / "clips" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLIPS / "fall.mp4", path)
    return LabelledClip(name, path, label, f"clip {name}")


def drafted(each: LabelledClip, *tracks: Track, frames: int = 41) -> DraftedClip:
    steps = len(range(0, frames, EVERY))
    return DraftedClip(each, frames, 25.0, 320, 240, tracks, actor(tracks, steps), each.path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_actor_is_most_there_largest_and_in_the_middle() -> None:
    assert actor((), 9) is None
    assert actor((track(OTHER, 9), track(ACTOR, 9)), 9) == 1
    assert actor((track(ACTOR, 9), track(ACTOR, 3)), 9) == 0
    assert actor((track((0.0, 0.2, 0.2, 0.9), 9), track(ACTOR, 9)), 9) == 1
    assert actor((track(ACTOR, 9, score=0.5), track(ACTOR, 9, score=0.9)), 9) == 1


def test_a_clip_is_looked_at_once(tmp_path: Path) -> None:
    made: list[Standing] = []

    def finder() -> Standing:
        made.append(Standing())
        return made[-1]

    clips = [clip(tmp_path, "fall/one.mp4", "fall")]
    first, skipped = Drafts(tmp_path / "drafts", finder, "a").draft(clips, lambda done, total: None)
    again, _ = Drafts(tmp_path / "drafts", finder, "a").draft(clips, lambda done, total: None)
    assert (len(made), skipped) == (1, [])
    for found in (*first, *again):
        assert (found.actor, len(found.tracks)) == (1, 2)
        np.testing.assert_allclose(found.tracks[1].boxes, [ACTOR] * len(found.tracks[1].steps))
    Drafts(tmp_path / "drafts", finder, "another model").draft(clips, lambda done, total: None)
    assert len(made) == 2

    page = draft_page([*first, *first], {"fall/one.mp4": "val"}, [SkippedClip(Path("b&w.mp4"), "it is <no> video")])
    assert page.count('src="data:image/jpeg;base64,/9j/') == 2
    assert "fall/one.mp4: 2 people, kept to check by" in page
    assert "b&amp;w.mp4: it is &lt;no&gt; video" in page


@pytest.mark.parametrize(
    ("scores", "label", "people"),
    [((0.9, 0.4), "fall", 1), ((0.4, 0.4), "fall", 2), ((0.4, 0.4), None, 0), ((0.6, 0.5), None, 2)],
)
def test_who_is_not_sure_counts_only_where_somebody_must_be(
    tmp_path: Path, scores: tuple[float, float], label: str | None, people: int
) -> None:
    drafts = Drafts(tmp_path / "drafts", lambda: Standing(*scores), "a")
    (found,), _ = drafts.draft([clip(tmp_path, "some/one.mp4", label)], lambda done, total: None)
    assert len(found.tracks) == people


def test_somebody_seen_for_a_third_of_a_second_counts(tmp_path: Path) -> None:
    """The clip has 15 frames a second: two pictures that are looked at."""

    class Passing(Standing):
        looks = 0

        def find(self, rgb: np.ndarray) -> People:
            self.looks += 1
            return super().find(rgb) if self.looks in (2, 3) else People(np.zeros((0, 4)), np.zeros(0))

    drafts = Drafts(tmp_path / "drafts", Passing, "a")
    (found,), _ = drafts.draft([clip(tmp_path, "some/one.mp4", "fall")], lambda done, total: None)
    assert [each.steps for each in found.tracks] == [[1, 2], [1, 2]]


def test_the_sets_say_who_does_what(tmp_path: Path) -> None:
    """The actor's label on every frame that is learned from, nothing of the other; nobody of `none` does any of it."""
    taught = [
        clip(tmp_path, "fall/a b.mp4", "fall"),
        clip(tmp_path, "walk/é.mp4", "walk"),
        clip(tmp_path, "none/n.mp4", None),
    ]
    drafts = [drafted(each, track(OTHER, 9), track(ACTOR, 9)) for each in taught]
    parts = {"fall/a b.mp4": "train", "walk/é.mp4": "val", "none/n.mp4": "train"}
    sets = write_sets(tmp_path / "work", drafts, parts, LABELS, [])  # type: ignore[arg-type]
    assert sets.none_parts == ("train",)
    train = read_custom(CustomSet(kind="custom"), sets.taught, "train", LABELS)
    assert [video.name for video in train.videos] == ["fall/a b.mp4"]
    assert (tmp_path / "work" / "taught" / "videos" / "fall" / "a b.mp4").samefile(taught[0].path)
    assert train.frame.tolist() == list(range(41))
    acts = train.actions[:, 0]
    np.testing.assert_allclose(train.boxes_xyxy[acts], [ACTOR] * 41, atol=1e-4)
    assert train.annotated[acts].all()
    assert not train.annotated[~acts].any()
    val = read_custom(CustomSet(kind="custom"), sets.taught, "val", LABELS)
    assert val.frame.tolist() == list(range(0, 41, 2 * EVERY))
    assert sets.none is not None
    none = read_custom(CustomSet(kind="custom"), sets.none, "train", LABELS)
    assert none.annotated.all()
    assert not none.actions.any()
    assert len(none.boxes_xyxy) == 2 * 41


def test_another_sets_people_do_nothing_of_it(tmp_path: Path) -> None:
    """Its videos of what is taught are left out, by a label or by what their source says."""
    box = "0.1,0.2,0.3,0.9"
    boxes = "".join(
        f"{video},{frame},{box},{label},0,pseudo\n"
        for video, label in {"a.mp4": "run", "b.mp4": "Walk", "c.mp4": "", "d.mp4": "sit"}.items()
        for frame in (0, 5, 15)
    )
    other = custom_set(tmp_path / "other", "video,frame,x1,y1,x2,y2,label,track,origin\n" + boxes, {})
    (other / "videos.csv").write_text(
        "video,split,source\na.mp4,train,x:run\nb.mp4,train,x:y\nc.mp4,train,yoga:fall\nd.mp4,val,\n"
    )
    each = clip(tmp_path, "fall/a.mp4", "fall")
    parts = {"fall/a.mp4": "train"}
    sets = write_sets(tmp_path / "work", [drafted(each, track(ACTOR, 9))], parts, LABELS, [other])  # type: ignore[arg-type]
    assert sets.none == tmp_path / "work" / "none"
    assert {row["video"]: row["split"] for row in rows(sets.none / "videos.csv")} == {
        "other/a.mp4": "train",
        "other/d.mp4": "val",
    }
    found = rows(sets.none / "boxes.csv")
    assert [(row["video"], row["frame"], row["label"]) for row in found] == [
        ("other/a.mp4", "0", ""), ("other/a.mp4", "5", ""), ("other/a.mp4", "15", ""),
        ("other/d.mp4", "0", ""), ("other/d.mp4", "15", ""),
    ]  # fmt: skip
    assert {row["labels"] for row in rows(sets.none / "negatives.csv")} == {"fall;walk"}

    (other / "videos.csv").write_text("video,split\nb.mp4,train\n")
    with pytest.raises(TrainError, match="other: all of its videos show what is taught; leave it out"):
        write_sets(tmp_path / "work", [drafted(each, track(ACTOR, 9))], parts, LABELS, [other])  # type: ignore[arg-type]


def test_another_set_is_checked_by_a_few_of_its_clips(tmp_path: Path) -> None:
    names = [f"{number:02}.mp4" for number in range(40)]
    boxes = "".join(f"{name},0,0.1,0.2,0.3,0.9,,0,pseudo\n" for name in names)
    other = custom_set(
        tmp_path / "other", "video,frame,x1,y1,x2,y2,label,track,origin\n" + boxes, dict.fromkeys(names, "val")
    )
    sets = write_sets(tmp_path / "work", [], {}, LABELS, [other])
    assert (sets.none, sets.none_parts) == (None, ("val",))
    kept = [row["video"] for row in rows(tmp_path / "work" / "none" / "videos.csv")]
    assert (len(kept), kept[0], kept[-1]) == (CHECKED_BY, "other/00.mp4", "other/39.mp4")


def test_sets_of_one_name_do_not_collide(tmp_path: Path) -> None:
    """Nor with the clips of none, whatever a set's folder is called; a set that is given twice is one."""
    boxes = "video,frame,x1,y1,x2,y2,label,track,origin\na.mp4,0,0.1,0.2,0.3,0.9,,0,pseudo\n"
    folders = [tmp_path / name for name in ("one/set", "two/set", "none")]
    others = [custom_set(folder, boxes, {"a.mp4": "train"}) for folder in folders]
    each = clip(tmp_path, "none/a.mp4", None)
    drafts = [drafted(each, track(ACTOR, 9))]
    sets = write_sets(tmp_path / "work", drafts, {"none/a.mp4": "train"}, LABELS, [*others, others[0]])
    assert sets.none is not None
    assert {
        row["video"]: (sets.none / "videos" / row["video"]).resolve() for row in rows(sets.none / "videos.csv")
    } == {
        "none/a.mp4": each.path.resolve(),
        "set/a.mp4": (others[0] / "videos" / "a.mp4").resolve(),
        "set 2/a.mp4": (others[1] / "videos" / "a.mp4").resolve(),
        "none 2/a.mp4": (others[2] / "videos" / "a.mp4").resolve(),
    }


def test_a_clip_that_vanishes_is_left_out(tmp_path: Path) -> None:
    clips = [clip(tmp_path, f"fall/{name}.mp4", "fall") for name in ("gone", "here")]
    clips[0].path.unlink()
    found, skipped = Drafts(tmp_path / "drafts", Standing, "a").draft(clips, lambda done, total: None)
    assert [draft.clip.name for draft in found] == ["fall/here.mp4"]
    assert skipped == [SkippedClip(clips[0].path, "it cannot be read any more: No such file or directory")]
