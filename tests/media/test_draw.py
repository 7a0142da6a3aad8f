import numpy as np
import pytest

from stmixer.media import draw
from stmixer.media.draw import LEVEL_COLOURS, PALETTE, DrawnActor, draw_actors, draw_points, tile

SIZES = [(320, 240), (240, 320), (1280, 720), (3840, 2160)]


def blank(width, height, grey=128):
    return np.full((height, width, 3), grey, np.uint8)


def count(rgb, colour):
    return int((rgb == colour).all(axis=2).sum())


def actor(box, track_id, labels=(("walk", 0.9), ("talk to (e.g., self, a person, a group)", 0.8))):
    return DrawnActor(box, 0.91, labels, track_id)


@pytest.mark.parametrize("size", SIZES)
def test_the_input_is_left_alone_and_the_size_kept(size):
    rgb = blank(*size)
    drawn = draw_actors(rgb, [actor((20, 30, 90, 150), 0)], banner="UNTRAINED MODEL")
    assert drawn.shape == rgb.shape
    assert drawn.dtype == np.uint8
    assert (rgb == 128).all()
    assert (drawn != 128).any()


def test_nobody_and_no_banner_change_nothing():
    rgb = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_actors(rgb, []), rgb)


@pytest.mark.parametrize("size", SIZES)
def test_everything_scales_with_the_picture(size):
    width, height = size
    box = (0.3 * width, 0.4 * height, 0.7 * width, 0.9 * height)
    drawn = draw_actors(blank(*size), [actor(box, 0, [("walk", 0.9)])])
    # Plate and lines together, as a share of the picture.
    assert 0.008 < count(drawn, PALETTE[0]) / (width * height) < 0.15


@pytest.mark.parametrize(
    "box", [(-50, -50, 20, 20), (300, 220, 400, 300), (0, 0, 320, 240), (310, 0, 319, 5), (100, 235, 102, 239)]
)
def test_labels_stay_inside_the_picture(box):
    """A plate at the edge is as large as one in the middle: nothing of it lies outside."""
    labels = (("walk", 0.9),)
    whole = count(draw_actors(blank(320, 240), [actor((150, 120, 151, 121), 0, labels)]), PALETTE[0])
    assert count(draw_actors(blank(320, 240), [actor(box, 0, labels)]), PALETTE[0]) > 0.9 * whole


def test_labels_of_neighbours_do_not_cover_each_other():
    actors = [actor((100 + 3 * i, 100, 140 + 3 * i, 200), i, (("stand", 0.5),)) for i in range(4)]
    together = draw_actors(blank(640, 360), actors)
    for i, one in enumerate(actors):
        alone = count(draw_actors(blank(640, 360), [one]), PALETTE[i])
        # Boxes do cross here; a covered plate would lose far more.
        assert count(together, PALETTE[i]) > 0.6 * alone


def test_a_label_too_long_is_cut_not_drawn_outside():
    drawn = draw_actors(blank(120, 90), [actor((10, 10, 50, 50), 0, (("x" * 200, 0.5),))])
    assert count(drawn, PALETTE[0]) < 0.8 * 120 * 90
    assert (drawn[-1] == 128).all()


def test_a_label_is_measured_a_few_times_however_long_it_is(monkeypatch):
    asked = []

    class Font:
        def getlength(self, text):
            asked.append(text)
            return len(text)

    monkeypatch.setattr(draw, "_font", lambda size: Font())
    scale = draw._Scale.of(320, 240)
    assert draw._shortened("x" * 10_000, scale, 50) == "x" * 49 + "…"
    assert draw._shortened("x" * 50, scale, 50) == "x" * 50
    assert draw._shortened("xx", scale, 0) == "…"
    assert len(asked) < 30


def test_a_label_is_one_line_whatever_it_has_in_it():
    one, broken = (
        draw_actors(blank(320, 240), [actor((10, 60, 60, 200), 0, ((label, 0.9),))])
        for label in ("sit on a chair", "\nsit on\r\n a\tchair\v")
    )
    np.testing.assert_array_equal(broken, one)


def test_colour_follows_the_track_and_else_the_order():
    one, other = actor((10, 60, 60, 200), 2), DrawnActor((150, 60, 200, 200), 0.5, [])
    drawn = draw_actors(blank(320, 240), [one, other])
    assert count(drawn, PALETTE[2]) > 50
    assert count(drawn, PALETTE[1]) > 50
    assert count(drawn, PALETTE[0]) == 0


def test_the_banner_is_a_strip_at_the_top_that_labels_avoid():
    banner = draw_actors(blank(320, 240), [], banner="UNTRAINED MODEL")
    strip = int((banner[:, 0] != 128).any(axis=1).sum())
    assert 8 < strip < 40
    assert (banner[strip:] == 128).all()
    drawn = draw_actors(blank(320, 240), [actor((0, 0, 50, 50), 0)], banner="UNTRAINED MODEL")
    np.testing.assert_array_equal(drawn[:strip], banner[:strip])


def test_points_show_their_level_by_colour_and_size():
    points = np.array([[60.0, 60], [60, 160], [200, 60], [200, 160]])
    drawn = draw_points(blank(320, 240), points, np.array([2, 3, 4, 5]), (20, 20, 280, 200), "stage 6")
    areas = [count(drawn[:210], LEVEL_COLOURS[z]) for z in (2, 3, 4, 5)]
    assert areas == sorted(areas)
    assert areas[0] >= 4
    assert len(set(areas)) == 4
    # The legend names all levels even where no point lies.
    empty = draw_points(blank(320, 240), np.zeros((0, 2)), np.zeros(0))
    assert all(count(empty, LEVEL_COLOURS[z]) > 3 for z in (2, 3, 4, 5))


def test_points_outside_are_left_out_and_levels_clamped():
    empty = draw_points(blank(320, 240), np.zeros((0, 2)), np.zeros(0))
    outside = draw_points(blank(320, 240), np.array([[-5.0, 10], [10, 241], [400, 0]]), np.array([2, 3, 4]))
    np.testing.assert_array_equal(outside, empty)
    clamped = draw_points(blank(320, 240), np.array([[100.0, 100]]), np.array([7.9]))
    assert count(clamped, LEVEL_COLOURS[5]) > count(empty, LEVEL_COLOURS[5])


def test_tiles_go_row_by_row():
    sheet = tile([blank(30, 20, grey) for grey in (10, 20, 30)], 2, gap=2)
    assert sheet.shape == (42, 62, 3)
    assert [sheet[0, 0, 0], sheet[0, 32, 0], sheet[22, 0, 0], sheet[22, 32, 0], sheet[20, 0, 0]] == [
        10,
        20,
        30,
        255,
        255,
    ]
    assert tile([blank(30, 20)], 5).shape == (20, 30, 3)
