"""Tables as spreadsheets, shells and pandas write them: read as they are meant, or one line with file and row."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from training import custom_set

from stmixer.trainer.config.run import AvaSet, CustomSet
from stmixer.trainer.data.ava import read_ava
from stmixer.trainer.data.csv_table import read_lines, read_table, whole
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.records import Split
from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluators.ava_csv import read_excluded, read_truth

HEAD = "video,frame,x1,y1,x2,y2,label,track"
SPLITS = {"walk.mp4": "train", "fall.mp4": "val"}
AVA = "clip1,0902,0.1,0.2,0.5,0.9,12,0\nclip1,0902,0.1,0.2,0.5,0.9,17,0\nclip1,0903,0.1,0.2,0.5,0.9,12,0\n"


def custom(root: Path, *rows: str, head: str = HEAD) -> Split:
    custom_set(root, "\n".join([head, *rows]) + "\n", SPLITS)
    return read_custom(CustomSet(kind="custom"), root, "train", None)


def faults(root: Path, *rows: str) -> tuple[str, ...]:
    with pytest.raises(TrainError) as caught:
        custom(root, *rows)
    return tuple(line.removeprefix(f"{root}/") for line in caught.value.lines)


def ava(root: Path, content: bytes, excluded: bytes = b"") -> Split:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "ava_val_v2.2.csv").write_bytes(content)
    (root / "annotations" / "ava_val_excluded_timestamps_v2.2.csv").write_bytes(excluded)
    return read_ava(AvaSet(kind="ava", source="videos"), root, "val")


ENCODINGS = {
    "bom": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be, with a mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le, without one": lambda text: text.encode("utf-16-le"),
    "utf-16-be, without one": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(tmp_path: Path, name: str) -> None:
    encoded = ENCODINGS[name]
    split = ava(tmp_path, encoded(AVA.replace("\n", "\r\n")), encoded("clip1,0902\r\n"))
    assert [video.name for video in split.videos] == ["clip1"]
    assert split.frame.tolist() == [903], "the exclusion counts"
    (tmp_path / "gt.csv").write_bytes(encoded(AVA))
    assert read_truth(tmp_path / "gt.csv").video.tolist() == ["clip1"] * 3
    assert read_excluded(tmp_path / "annotations" / "ava_val_excluded_timestamps_v2.2.csv").frame.tolist() == [902]
    folder = custom_set(tmp_path / "custom", "", SPLITS)
    (folder / "boxes.csv").write_bytes(encoded(f"{HEAD}\nwalk.mp4,0,0.1,0.2,0.3,0.4,Fußgänger,1\n"))
    (folder / "videos.csv").write_bytes(encoded((folder / "videos.csv").read_text()))
    assert read_custom(CustomSet(kind="custom"), folder, "train", None).labels == ("Fußgänger",)


@pytest.mark.parametrize(
    "text",
    [
        AVA.replace(",", ";"),
        AVA.replace(",", "\t"),
        AVA.replace(",", ";").replace("0.", "0,"),
        "sep=;\r\n" + AVA.replace(",", ";"),
        AVA.replace("\n", "\r"),
        AVA.replace(",", ", ").replace("0902", "902.0"),
        "\n\n" + AVA.replace("\n", "\n,,,,,,,\n"),
        AVA.replace(",0902,", ',"902,0",').replace(",12,", ",12.0,"),
    ],
    ids=["semicolons", "tabs", "decimal commas", "sep=;", "CR", "blanks", "blank lines", "quoted decimal comma"],
)
def test_separators_and_numbers(tmp_path: Path, text: str) -> None:
    split = ava(tmp_path, text.encode())
    assert split.frame.tolist() == [902, 903]
    assert split.boxes_xyxy.tolist() == [[0.1, 0.2, 0.5, 0.9]] * 2
    assert [split.labels[c] for c in split.actions[0].nonzero()[0]] == ["stand", "carry/hold (an object)"]


@pytest.mark.parametrize(
    ("content", "excluded", "line"),
    [
        (
            (AVA + "caf\xe9,0904,0.1,0.2,0.5,0.9,12,0\n").encode("latin-1"),
            b"",
            r"val_v2\.2\.csv:4: byte 0xE9 is no UTF-8",
        ),
        (
            AVA.encode(),
            "clip1,0902\r\n\r\nd\xe9j\xe0,0903\r\n".encode("cp1252"),
            r"excluded_timestamps_v2\.2\.csv:3: byte 0xE9",
        ),
        (
            AVA.encode(),
            b"clip1,0902\nclip1,902.5\n",
            r"excluded_timestamps_v2\.2\.csv:2: not video, second: clip1,902\.5",
        ),
        (AVA.encode() + b"\nclip1,905,0.1\n", b"", r"ava_val_v2\.2\.csv:5: not video, second, x1"),
        (AVA.encode() + b'clip1,0905,0.1,0.2,0.5,0.9,12,"0\n', b"", r"ava_val_v2\.2\.csv:4: no csv"),
        (AVA.encode("utf-16")[:-1], b"", r"ava_val_v2\.2\.csv is no text in UTF-16"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_file_and_row(
    tmp_path: Path, content: bytes, excluded: bytes, line: str
) -> None:
    with pytest.raises(TrainError, match=line) as caught:
        ava(tmp_path, content, excluded)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_of_pandas(tmp_path: Path) -> None:
    split = custom(
        tmp_path,
        "walk.mp4,10.0,0.1,0.2,0.3,0.4,walk,1.0,0.0",
        "walk.mp4,10.0,0.6,0.2,0.8,0.8, walk\xa0,,False",
        "walk.mp4,12.0,0.6,0.2,0.8,0.8,,3.0,True",
        head=f"{HEAD},crowd",
    )
    assert (split.frame.tolist(), sorted(split.track.tolist())) == ([10, 12], [-1, 1, 3])
    assert split.labels == ("walk",)
    assert split.crowd.tolist() == [False, False, True]


def test_tracks_of_by_looking_as_pandas_writes_them(tmp_path: Path) -> None:
    custom_set(tmp_path, f"{HEAD}\nwalk.mp4,0,0.1,0.2,0.3,0.4,none,1.0\n", SPLITS)
    (tmp_path / "by_looking.csv").write_text("video,track,label\nwalk.mp4,1,stand\n")
    split = read_custom(CustomSet(kind="custom", by_looking=True), tmp_path, "train", None)
    assert (split.labels, split.actions.tolist()) == (("stand",), [[True]])


def test_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    good, bad = "walk.mp4,0,0.1,0.2,0.3,0.4,walk,1", "walk.mp4,5,0.5,0.2,0.3,0.4,walk,1"
    assert faults(tmp_path, "", "", ",,,,,,,", good, "", bad) == ("boxes.csv:7: box 0.5 0.2 0.3 0.4 has no area",)
    assert faults(tmp_path, good, "walk.mp4,12.5,0.1,0.2,0.3,0.4,walk,1") == (
        "boxes.csv:3: frame '12.5' is no whole number",
    )
    assert faults(tmp_path, good, "walk.mp4,5,0,1,0,2,0,3,0,4,walk,1") == ("boxes.csv:3: 12 values, but 8 columns",)
    note = '"two\nlines"'
    (tmp_path / "boxes.csv").write_text(f"{HEAD},note\n\n{good},{note}\n{bad},\n")
    with pytest.raises(TrainError, match=r"boxes\.csv:5: box"):
        read_custom(CustomSet(kind="custom"), tmp_path, "train", None)
    (tmp_path / "t.csv").write_text("a;b\n\n1;2\n")
    assert read_lines(tmp_path / "t.csv") == [(1, ["a", "b"]), (3, ["1", "2"])]
    (row,) = read_table(tmp_path / "t.csv", ("b",))
    assert (row.line, row["b"], row.get("c")) == (3, "2", "")


def test_a_person_on_several_rows_is_one_however_the_boxes_are_rounded(tmp_path: Path) -> None:
    rows = ("walk.mp4,0,0.2000004,0.2,0.4,0.8,wave,1", "walk.mp4,0,0.2,0.2,0.4,0.8,walk,1")
    split = custom(tmp_path / "rounded", *rows)
    assert (split.actions.tolist(), split.boxes_xyxy.tolist()) == ([[True, True]], [[0.2000004, 0.2, 0.4, 0.8]])
    thousandth = custom(tmp_path / "thousandth", "walk.mp4,0,0.2004,0.2,0.4,0.8,wave,1", rows[1])
    assert thousandth.actions.tolist() == [[True, True]]
    near = ("walk.mp4,0,0.20000001,0.2,0.4,0.8,wave,", "walk.mp4,0,0.2,0.2,0.4,0.8,walk,")
    trackless = custom(tmp_path / "trackless", *near)
    assert trackless.actions.tolist() == [[True, True]]
    apart = custom(tmp_path / "apart", "walk.mp4,0,0.2004,0.2,0.4,0.8,wave,", "walk.mp4,0,0.2,0.2,0.4,0.8,walk,")
    assert len(apart.crowd) == 2, "nobody says that they are one"
    other = custom(tmp_path / "other", "walk.mp4,0,0.2000004,0.2,0.4,0.8,wave,2", rows[1])
    assert len(other.crowd) == 2


def test_an_area_and_a_person_that_differ_by_rounding_contradict_each_other(tmp_path: Path) -> None:
    custom_set(
        tmp_path,
        f"{HEAD},crowd\nwalk.mp4,0,0.2,0.2,0.4,0.8,walk,1,0\nwalk.mp4,0,0.2000004,0.2,0.4,0.8,,1,1\n",
        SPLITS,
    )
    with pytest.raises(TrainError, match=r"boxes\.csv:3: the same box is a person in one row"):
        read_custom(CustomSet(kind="custom"), tmp_path, "train", None)


@pytest.mark.parametrize("text", ["12.5", "1e30", "nan", "inf", "1,200", "12,000", "twelve", "", "9007199254740993"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        whole(text, "frame")


@pytest.mark.parametrize(("text", "value"), [("12", 12), ("0902", 902), ("12.0", 12), ("902,0", 902), ("1e3", 1000)])
def test_whole_numbers(text: str, value: int) -> None:
    assert whole(text, "frame") == value
