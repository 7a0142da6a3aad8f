"""Which clips `bench.teach` learns from and which it tests: never the same ones, and never a group's on both sides."""

from __future__ import annotations

from pathlib import Path

from bench.teach import LEARNED, OTHERS, Clip, others, renamed, unknown


def test_groups_are_learned_from_or_tested(tmp_path: Path) -> None:
    rows = [
        f"v_{name}_g{group:02}_c01.mp4,0,0.1,0.2,0.3,0.4,{label},0,pseudo"
        for name, label in {"Lunges": "lunge", "JumpingJack": "jumping jack", "JugglingBalls": "juggle"}.items()
        for group in (1, 4, 5, 6)
    ]
    rows.append("denis_jack.mp4,0,0.1,0.2,0.3,0.4,jumping jack,0,pseudo")
    rows.append("v_JumpingJack_g06_c01.mp4,0,0.5,0.2,0.6,0.4,,1,pseudo")  # somebody beside them
    (tmp_path / "boxes.csv").write_text("\n".join(["video,frame,x1,y1,x2,y2,label,track,origin", *rows]))
    task = renamed(tmp_path)
    names = [(clip.label, clip.name, clip.file.name) for clip in task.learn]
    assert sorted(names) == [
        ("long step", "g04__c01.mp4", "v_Lunges_g04_c01.mp4"),
        ("long step", "g05__c01.mp4", "v_Lunges_g05_c01.mp4"),
        ("star jump", "g04__c01.mp4", "v_JumpingJack_g04_c01.mp4"),
        ("star jump", "g05__c01.mp4", "v_JumpingJack_g05_c01.mp4"),
    ]
    assert [clip.file.name for clip in task.test] == ["v_JumpingJack_g06_c01.mp4", "v_Lunges_g06_c01.mp4"]


def test_four_clips_of_each_are_learned_from(tmp_path: Path) -> None:
    rows = [
        f"{source[3:]} {number}.mp4,train,{source}" for source in ("ex:plank", "ex:side plank") for number in range(6)
    ]
    rows += [f"free {number:02}.mp4,val,clip:knitting" for number in range(50)]
    rows += [f"a seen one {number}.mp4,train,clip:knitting" for number in range(5)]
    (tmp_path / "videos.csv").write_text("\n".join(["video,split,source", *rows]))
    task = unknown(tmp_path)
    assert [clip.file.name for clip in task.learn] == [f"plank {number}.mp4" for number in range(LEARNED)]
    assert task.test == [
        Clip(tmp_path / "videos" / f"plank {number}.mp4", "plank", f"plank {number}.mp4") for number in (4, 5)
    ]
    free = others(tmp_path)
    assert (len(set(free)), free[0].name, free[-1].name) == (OTHERS, "free 00.mp4", "free 49.mp4")
