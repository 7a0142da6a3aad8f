"""`bench.checkouts`: what is compared is what was named."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

import bench.decode
from bench.checkouts import OURS, in_turns, package_of
from bench.decode import FILMS, Film, films_of

SCRIPT = "import json, pathlib, stmixer; print(json.dumps({'depth': len(pathlib.Path(stmixer.__file__).parts)}))"


def test_each_side_imports_its_own(tmp_path: Path) -> None:
    (tmp_path / "stmixer").mkdir()
    (tmp_path / "stmixer/__init__.py").touch()
    other, ours = in_turns(SCRIPT, [], tmp_path, 2)
    assert other == [{"depth": len(tmp_path.parts) + 2}] * 2
    assert ours == [{"depth": len(OURS.parts) + 2}] * 2
    assert len(tmp_path.parts) != len(OURS.parts)


def test_a_version_from_before_the_package_is_not_replaced_by_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stmixer/__init__.py is not there: the version is older"):
        in_turns(SCRIPT, [], tmp_path, 1)


OLD_READER = """
from pathlib import Path

log = Path(__file__).with_name("log").open("a")


class Limits:
    unlimited = staticmethod(lambda: None)


class VideoReader:
    def __init__(self, path, limits):
        print(path, file=log)

    def __enter__(self):
        return [self] * 3

    def __exit__(self, *error):
        pass

    def resized(self, width, height, antialias):
        print(f"{width}x{height}", file=log)
        return self
"""


def test_decoding_takes_turns_with_a_version_from_before_the_package(tmp_path: Path) -> None:
    """Its own reader reads, and not what is installed."""
    with pytest.raises(FileNotFoundError, match="is no checkout"):
        package_of(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media/decode.py").write_text(OLD_READER)
    (tmp_path / "media/__init__.py").touch()
    assert (package_of(tmp_path), package_of(OURS)) == ("", "stmixer.")
    film, path = Film("mpeg2video", 96, 64, fields=True), tmp_path / "clip.mkv"
    film.make(path, 10)
    assert film.row == {"codec": "mpeg2video", "size": "96x64", "interlaced": True}
    assert Film("h264", 96, 64).row == {"codec": "h264", "size": "96x64"}
    rows = bench.decode.in_turns(film, path, tmp_path, 1, 0.0)
    assert list(rows) == ["wall_ms_per_frame", "cpu_ms_per_frame"]
    read = (tmp_path / "media/log").read_text().split()
    assert read[:4] == [str(path), "384x256", "384x256", "384x256"]
    assert set(bench.decode.alone(film, path, 1)) == {"frames_per_s", "as_stored", "made_whole_ms"}


def test_films_of_some_sizes_are_progressive_ones() -> None:
    few = films_of("640x360,1920x1080")
    assert {(film.codec, film.width) for film in few} == {
        (codec, width) for codec in ("h264", "hevc", "vp9", "av1", "mpeg4") for width in (640, 1920)
    }
    assert not any(film.fields for film in few)
    assert {film.codec for film in films_of("interlaced")} == {"h264", "mpeg2video"}
    assert all(film.fields for film in films_of("interlaced"))
    assert films_of("") == FILMS
    with pytest.raises(typer.BadParameter, match="no clip is called 640x36; there are"):
        films_of("640x36,1920x1080")
