"""What `stmixer detect` is given: files, folders, patterns, lists, addresses; and what it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stmixer.service.errors import InputError
from stmixer.service.offline import inputs
from stmixer.service.offline.inputs import inputs_of
from stmixer.service.offline.outputs import check_outputs, place_in


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files of a project folder, which is the current one."""
    for name in (
        "clips/b.MP4", "clips/a.mkv", "clips/day 2/c.webm", "clips/.thumbs/x.mp4", "clips/notes.html",
        "clips/still.JPG", "other.dat", "[1].mp4",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(*given: str) -> list[tuple[str, str]]:
    return [(item.name, item.kind) for item in inputs_of(given)]


FOLDER = [
    ("clips/a.mkv", "video"),
    ("clips/b.MP4", "video"),
    ("clips/still.JPG", "picture"),
    ("clips/day 2/c.webm", "video"),
]


@pytest.mark.usefixtures("clips")
def test_a_folder_is_searched_to_the_bottom() -> None:
    assert shown("clips") == FOLDER
    assert shown("clips/") == FOLDER


@pytest.mark.usefixtures("clips")
def test_files_are_taken_whatever_they_are_called() -> None:
    assert shown("other.dat", "[1].mp4") == [("other.dat", "video"), ("[1].mp4", "video")]


@pytest.mark.usefixtures("clips")
def test_each_once_in_the_order_given() -> None:
    assert shown("clips/b.MP4", "clips", f"{os.curdir}/clips/a.mkv") == [FOLDER[1], FOLDER[0], *FOLDER[2:]]


@pytest.mark.usefixtures("clips")
def test_patterns() -> None:
    assert shown("clips/*.mkv", "clips/**/*.webm") == [FOLDER[0], FOLDER[3]]
    assert shown("cl*") == FOLDER, "of a folder, what is in it"


def test_a_list_names_things_from_its_folder_on(clips: Path) -> None:
    (clips / "clips" / "all.txt").write_text("\ufeff# two\n a.mkv \n\nday 2\nhttp://example.org/v.mp4\n")
    assert shown("clips/all.txt") == [FOLDER[0], FOLDER[3], ("http://example.org/v.mp4", "url")]


def test_addresses() -> None:
    (item,) = inputs_of(["https://example.org/a/my%20clip.mp4?x=1"])
    assert (item.kind, item.file_name) == ("url", "my clip.mp4")
    assert inputs_of(["HTTP://example.org"])[0].file_name == "video"


@pytest.mark.parametrize(
    ("given", "name", "file_name"),
    [
        ("rtsp://user:secret@cam.local", "rtsp://cam.local/", "camera"),
        ("RTSP://user:secret@cam.local:8554/", "rtsp://cam.local:8554/", "camera"),
        ("rtsp://cam/live?user=a&password=secret", "rtsp://cam/live?…", "live"),
        ("rtsp://cam?password=secret", "rtsp://cam/?…", "camera"),
        ("rtsp://u:se@cret@cam/a/b", "rtsp://cam/a/b", "b"),
        ("https://u:se@cret@example.org/v.mp4?id=7", "https://example.org/v.mp4?id=7", "v.mp4"),
    ],
)
def test_what_an_address_is_called_says_nothing_that_is_secret(given: str, name: str, file_name: str) -> None:
    (item,) = inputs_of([given])
    assert (item.name, item.file_name, item.place) == (name, file_name, given)


@pytest.mark.parametrize("given", ["rtsp://u:se/cret@cam/1", "rtsp://v:b/cret@cam", "rtsp://", "rtmp://u:se/cret@cam"])
def test_an_address_that_cannot_be_read_is_not_repeated(given: str) -> None:
    with pytest.raises(InputError) as caught:
        inputs_of([given])
    assert caught.value.code in ("bad_url", "unsupported_source")
    assert "cret" not in str(caught.value)


def test_a_camera_is_looked_at_alone(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (door,) = inputs_of(["rtsp://me:secret@door/1"])
    assert (door.name, door.kind, door.place) == ("rtsp://door/1", "camera", "rtsp://me:secret@door/1")
    assert "secret" not in repr(door)
    monkeypatch.setattr(inputs, "_is_camera", lambda path: str(path) in ("/dev/video0", "/dev/video1"))
    assert [(item.kind, item.place) for one in ("0", "/dev/video1") for item in inputs_of([one])] == [
        ("camera", "/dev/video0"), ("camera", "/dev/video1"),
    ]  # fmt: skip
    (clips / "door.txt").write_text("rtsp://me:secret@door/1\n")
    assert inputs_of(["door.txt"]) == [door]
    (clips / "0").touch()
    assert inputs_of(["0"])[0].kind == "video", "a file of that name goes before"
    with pytest.raises(InputError, match="rtsp://door/1 is looked at until it is ended, and alone"):
        inputs_of(["clips/a.mkv", "rtsp://me:secret@door/1"])


@pytest.mark.usefixtures("clips")
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("gone.mp4", "not_found", "gone.mp4 does not exist"),
        ("*.avi", "not_found", "no file is called so"),
        ("987", "not_found", "no webcam /dev/video987"),
        ("rtmp://me:secret@cam/1", "unsupported_source", "rtmp://cam/1: `detect` reads files"),
        ("udp://239.0.0.1:1234", "unsupported_source", "webcams and rtsp:// cameras"),
        ("clips/.thumbs/..//../clips/none", "not_found", "does not exist"),
        ("empty", "not_found", "empty is a folder without videos or pictures"),
        ("nothing.txt", "not_found", "nothing.txt lists nothing"),
        ("binary.txt", "not_found", "is no list of files in UTF-8"),
        ("loop.txt", "no", ""),
    ],
)
def test_what_is_none(clips: Path, given: str, code: str, said: str) -> None:
    (clips / "empty").mkdir()
    (clips / "empty" / ".hidden.mp4").touch()
    (clips / "nothing.txt").write_text("# none\n")
    (clips / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (clips / "loop.txt").write_text("loop.txt\n")
    if given == "loop.txt":
        assert shown(given) == [("loop.txt", "video")], "a list in a list is a file like any other"
        return
    with pytest.raises(InputError) as caught:
        inputs_of([given])
    assert caught.value.code == code
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("clips")
@pytest.mark.parametrize(
    ("outputs", "given", "said"),
    [
        (["x.gif"], ["clips/a.mkv"], ".json, .mp4 or .mot.txt"),
        (["nowhere/x.json"], ["clips/a.mkv"], "does not exist"),
        (["x.json"], ["clips"], "there are 4: take .jsonl, .csv or a folder"),
        (["x.mp4"], ["clips/still.JPG"], "drawn upon as .jpg"),
        (["x.jpg"], ["clips/a.mkv"], "drawn upon as .mp4"),
        (["./[1].mp4"], ["[1].mp4"], "is the input itself"),
        (
            ["x.mp4"],
            ["rtsp://me:secret@door/1"],
            "of rtsp://door/1, a camera, the name must end in one of .jsonl, .csv",
        ),
        (["folder"], ["rtsp://door/1"], "must end in one of .jsonl"),
    ],
)
def test_outputs_that_cannot_be(outputs: list[str], given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        check_outputs([Path(name) for name in outputs], inputs_of(given))


@pytest.mark.usefixtures("clips")
def test_outputs_that_can() -> None:
    check_outputs([Path("x.csv"), Path("x.jsonl"), Path("out"), Path("clips")], inputs_of(["clips"]))
    check_outputs([Path("x.json"), Path("x.mp4")], inputs_of(["clips/a.mkv"]))
    check_outputs([Path("x.png")], inputs_of(["clips/still.JPG"]))
    check_outputs([Path(f"x{end}") for end in (".csv", ".jsonl", ".ava.csv", ".json")], inputs_of(["rtsp://door/1"]))


@pytest.mark.usefixtures("clips")
def test_files_of_a_folder_do_not_meet() -> None:
    addresses = [
        f"http://me:pw@example.org:81/{rest}" for rest in ("a.mp4", "1/a.mp4", "1/../a.mp4?id=7", "v?id=1", "v?id=2")
    ]
    inputs = inputs_of(["clips", *addresses])
    places = [place_in(Path("out"), item, inputs) for item in inputs]
    assert [str(path) for path in places[:4]] == [
        "out/a.mkv.json", "out/b.MP4.json", "out/still.JPG.json", "out/day 2/c.webm.json",
    ]  # fmt: skip
    assert [str(path) for path in places[4:6]] == ["out/example.org_81/a.mp4.json", "out/example.org_81/1/a.mp4.json"]
    assert len(set(places)) == len(inputs)
    assert all(path.parts[:2] == ("out", "example.org_81") and ".." not in path.parts for path in places[4:])
