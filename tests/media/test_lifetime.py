"""What a reader and its frames hold on to, and when they let go."""

import gc
import io
import weakref

import pytest

from stmixer.media.decode import Frame, Limits, VideoReader

ONE = 1 << 16


def read(source):
    with VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, limits=Limits()) as reader:
        return list(reader), reader


def test_frames_that_nobody_looks_at_are_not_converted(make_video, monkeypatch):
    def convert(self):
        raise AssertionError("converted")

    monkeypatch.setattr(Frame, "_stored_rgb", convert)
    frames, _ = read(make_video(5))
    with pytest.raises(AssertionError, match="converted"):
        frames[0].rgb()


def test_a_frame_outlives_its_reader_and_holds_nothing_of_it(make_video, read_corners):
    reader = VideoReader(io.BytesIO(make_video(5)), limits=Limits())
    source = weakref.ref(reader._source)
    frame = next(iter(reader))
    reader.close()
    reader.close()
    assert list(reader) == []
    del reader
    gc.collect()
    assert source() is None
    assert read_corners(frame.rgb()) == "rgbw"


def test_an_iterator_left_over_ends_with_its_reader(make_video):
    reader = VideoReader(io.BytesIO(make_video(5)), limits=Limits())
    left = iter(reader)
    next(left)
    next(left)
    reader.close()
    assert list(left) == []


def test_pictures_are_freed_without_the_collector(make_video):
    data = make_video(40, matrix=(0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30))
    gc.collect()
    gc.disable()
    try:
        with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
            assert sum(1 for _ in reader) == 40
        del reader
        assert gc.collect() < 40
    finally:
        gc.enable()


def test_a_file_object_is_not_closed_and_a_path_is(make_video, tmp_path):
    file = io.BytesIO(make_video(2))
    read(file)
    assert not file.closed
    path = tmp_path / "a.mp4"
    path.write_bytes(file.getvalue())
    frames, reader = read(path)
    assert len(frames) == 2
    assert reader._source._file.closed


def test_errors_of_the_file_object_pass_through(make_video):
    class Torn(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 2000:
                raise ConnectionAbortedError("the client went away")
            return super().read(min(size, 500))

    with pytest.raises(ConnectionAbortedError, match="went away"):
        read(Torn(make_video(60, container="mpegts")))


def test_a_file_object_that_returns_too_much_is_refused():
    class Greedy(io.BytesIO):
        def read(self, size=-1):
            return b"x" * (size + 1)

    with pytest.raises(ValueError, match="asked for"):
        read(Greedy())
