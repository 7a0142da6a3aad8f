from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stmixer.media.timeline import MAX_HELD, Timeline

HOUR = 3_600_000
MPEG = Fraction(1, 90_000)


def place_all(ticks, time_base=Fraction(1, 1000), rate=Fraction(25), wraps=(), *, hold=True):
    """Times of frames in their order, None for those left out, and the timeline; nothing may be lost or come twice."""
    timeline = Timeline(time_base, rate, wraps, hold=hold)
    placed = [one for number, t in enumerate(ticks) for one in timeline.place(number, t)] + timeline.end()
    assert [one.item for one in placed] == list(range(len(placed)))
    times = [one.pts_us for one in placed]
    assert len(times) == len(ticks)
    assert times.count(None) == timeline.left_out
    kept = [t for t in times if t is not None]
    assert all(a < b for a, b in pairwise(kept))
    return times, timeline


def every(step_us, count):
    return [i * step_us for i in range(count)]


def test_times_are_exact_and_count_from_the_first_frame():
    times, _ = place_all([5 + i for i in range(100_000)], Fraction(1001, 30000))
    assert times[0] == 0
    # Rounded from the exact value: a float or an accumulated interval would have drifted by now.
    assert times[-1] == round(Fraction(1001, 30000) * 99_999 * 1_000_000)


def test_negative_start_only_moves_the_origin():
    assert place_all([-200, -160, -100])[0] == [0, 40_000, 100_000]


def test_missing_timestamps_follow_at_the_rate():
    times, timeline = place_all([100, None, None, 220, None])
    assert times == [0, 40_000, 80_000, 120_000, 160_000]
    assert timeline.missing == 3


@pytest.mark.parametrize(
    ("recordings", "times", "resets"),
    [
        ([[0, 40], [0, 40], [0]], [0, 40, 80, 120, 160], 2),
        ([[0, 40, 80], [30, 70]], [0, 40, 80, 120, 160], 1),
        ([[0], [0], [0]], [0, 40, 80], 2),
        ([[0, 40], [5000], [0]], [0, 40, 5000, 5040], 1),
        ([[0, 40], [5000, 5040]], [0, 40, 5000, 5040], 0),
        ([[0, 40], [2 * HOUR, 2 * HOUR + 40]], [0, 40, 80, 120], 1),
        ([[0, 40], [None, 0]], [0, 40, 80, 120], 1),
        ([[None], [0, 40]], [0, 40, 80], 0),
        ([[0, 40, 8000], [0, 40]], [0, 40, 8000, 8040, 8080], 1),
    ],
)
def test_another_recording_is_known_to_begin(recordings, times, resets):
    """Of whatever length: its clock goes on ahead, or was set anew."""
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    placed, first, *others = [], *recordings
    for t in first:
        placed += timeline.place(None, t)
    for recording in others:
        placed += timeline.begin_anew(Fraction(25))
        for t in recording:
            placed += timeline.place(None, t)
    placed += timeline.end()
    assert [one.pts_us for one in placed] == [1000 * t for t in times]
    assert (timeline.resets, timeline.strays) == (resets, 0)


def test_missing_timestamps_follow_as_those_before_them_where_nothing_says_the_rate():
    for assumed, step, rate in ((False, 40_000, 25), (True, 100_000, 10)):
        timeline = Timeline(Fraction(1, 1000), Fraction(25), assumed=assumed)
        placed = [one for at in (*range(0, 2000, 100), None, None, None) for one in timeline.place(at, at)]
        assert [one.pts_us for one in placed[-4:]] == [1_900_000 + n * step for n in range(4)]
        assert (timeline.missing, timeline.taken_as) == (3, rate)


def test_missing_timestamps_of_another_recording_follow_at_its_rate():
    for assumed, step in ((False, 20), (True, 10)):
        timeline = Timeline(Fraction(1, 1000), Fraction(25))
        placed = [one for at in (0, 40, 80, None) for one in timeline.place(at, at)]
        placed += timeline.begin_anew(Fraction(50), assumed=assumed)
        placed += [one for at in (*range(0, 500, 10), None) for one in timeline.place(at, at)]
        assert [one.pts_us for one in placed[:5]] == [0, 40_000, 80_000, 120_000, 160_000]
        assert placed[-1].pts_us == placed[-2].pts_us + 1000 * step
        assert (timeline.missing, timeline.taken_as) == (2, 1000 / step)


def test_missing_timestamps_at_the_start_come_before_the_first_that_is_known():
    assert place_all([None, None, 500, 540])[0] == [0, 40_000, 80_000, 120_000]


def test_a_missing_timestamp_confirms_the_frame_before_it():
    assert place_all([*range(0, 400, 40), 5000, None, 5080])[0][-3:] == [5_000_000, 5_040_000, 5_080_000]


def test_decoding_times_stand_in_where_there_is_nothing_else():
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    assert [timeline.place(0, None, d)[0].pts_us for d in (10, 60, 90)] == [0, 50_000, 80_000]
    assert timeline.place(0, 150, 130)[0].pts_us == 140_000
    # A decoding time that is not later than the last frame is of no use.
    assert timeline.place(0, None, 140)[0].pts_us == 180_000
    assert timeline.missing == 1


def test_small_steps_back_and_repeats_are_out_of_order():
    times, timeline = place_all([0, 40, 40, 80, 20, 120])
    assert times == [0, 40_000, None, 80_000, None, 120_000]
    assert timeline.resets == 0


def test_times_that_round_to_the_same_microsecond_are_repeats():
    assert place_all([0, 1, 2], Fraction(1, 10_000_000))[0] == [0, None, None]


def test_a_step_back_of_over_a_second_is_a_reset():
    times, timeline = place_all([5000, 5040, 5080, 0, 40, 80])
    assert times == [0, 40_000, 80_000, 120_000, 160_000, 200_000]
    assert timeline.resets == 1


def test_a_step_back_of_exactly_a_second_is_out_of_order():
    assert place_all([0, 5000, 4000])[0] == [0, 5_000_000, None]
    assert place_all([0, 5000, 3999])[0] == [0, 5_000_000, 10_000_000]


def test_a_jump_of_over_an_hour_is_a_reset_and_less_is_a_gap():
    times, timeline = place_all([0, 40, 80, 80 + HOUR + 1, 120 + HOUR + 1])
    assert times == [0, 40_000, 80_000, 120_000, 160_000]
    assert timeline.resets == 1
    times, timeline = place_all([0, 40, 80, 80 + HOUR, 120 + HOUR])
    assert times == [0, 40_000, 80_000, 3_600_080_000, 3_600_120_000]
    assert timeline.resets == 0


def test_a_reset_takes_the_median_interval():
    times, _ = place_all([9000, 9010, 9020, 9530, 9540, 0])
    assert times[-1] == times[-2] + 10_000


@pytest.mark.parametrize("stray", [200_000, -200_000, 2_000, 0, 10 * HOUR, None])
def test_one_stray_timestamp_moves_nothing_and_loses_no_frame(stray):
    ticks = [40 * i for i in range(30)]
    ticks[12] = stray
    times, timeline = place_all(ticks)
    assert times == every(40_000, 30)
    assert timeline.resets == 0
    assert timeline.strays + timeline.missing == 1


@pytest.mark.parametrize("late", [40, 80, 120])
def test_a_stray_within_a_few_frames_moves_nothing_either(late):
    ticks = [40 * i for i in range(30)]
    ticks[12] += late
    times, timeline = place_all(ticks)
    assert times[-10:] == every(40_000, 30)[-10:]
    assert timeline.left_out <= 2


@pytest.mark.parametrize("at", [0, 1, 2, 28, 29])
def test_a_stray_at_either_end_moves_no_other_frame(at):
    ticks = [40 * i for i in range(30)]
    ticks[at] += 200_000
    assert place_all(ticks)[0] == every(40_000, 30)


def test_two_strays_in_a_row_are_put_between_their_neighbours():
    ticks = [40 * i for i in range(30)]
    ticks[12:14] = [900_000, -70_000]
    assert place_all(ticks)[0] == every(40_000, 30)


def test_a_stray_before_a_gap_does_not_swallow_the_gap():
    ticks = [*(40 * i for i in range(10)), 900_000, *(20_000 + 40 * i for i in range(10))]
    times, timeline = place_all(ticks)
    assert times[11:] == [20_000_000 + t for t in every(40_000, 10)]
    assert 360_000 < times[10] < 20_000_000
    assert timeline.resets == 0


@pytest.mark.parametrize("length", [4, 10, 100, 1500])
def test_recordings_one_after_another_that_each_start_at_zero(length):
    times, timeline = place_all([40 * i for i in range(length)] * 3)
    assert times == every(40_000, 3 * length)
    assert timeline.resets == 2


def test_a_jump_back_for_good_within_a_second_loses_no_frame():
    times, timeline = place_all([*(40 * i for i in range(40)), *(1000 + 40 * i for i in range(40))])
    assert times == every(40_000, 80)
    assert timeline.resets == 1


@pytest.mark.parametrize("ticks", [[0] * 20, [40 * i for i in reversed(range(20))], [7, -900_000] * 10])
def test_timestamps_that_say_nothing_are_as_none(ticks):
    times, timeline = place_all(ticks)
    kept = [t for t in times if t is not None]
    assert kept[0] == 0
    assert all(0 < b - a <= 1_000_000 for a, b in pairwise(kept))
    assert timeline.left_out < MAX_HELD  # the last ones, with none after them


def test_pictures_that_come_slowly_are_in_order():
    assert place_all([0, 5000, 10_000, 15_000])[0] == [0, 5_000_000, 10_000_000, 15_000_000]
    slow = [*(40 * i for i in range(20)), *(760 + 2000 * i for i in range(1, 10))]
    assert place_all(slow)[0] == [t * 1000 for t in slow]
    slower = [*(40 * i for i in range(20)), *(760 + 60_000 * i for i in range(1, 10))]
    assert place_all(slower)[0] == [t * 1000 for t in slower]


def test_a_stream_that_has_become_slow_is_no_longer_held_back():
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    for t in [*(40 * i for i in range(40)), 2600, 3600, 4600]:
        timeline.place(t, t)
    assert [[one.item for one in timeline.place(t, t)] for t in (5600, 6600)] == [[5600], [6600]]


@pytest.mark.parametrize(
    ("bits", "time_base", "step", "wraps"),
    [(33, MPEG, 90_000, 5), (32, MPEG, 90_000, 5), (32, Fraction(1, 1000), 3_600, 3), (16, Fraction(1, 1000), 40, 9)],
)
def test_a_counter_that_runs_over_goes_on(bits, time_base, step, wraps):
    turn = 1 << bits
    count = wraps * turn // step
    stride = max(1, count // 20_000)  # five wraps of 33 bits are five and a half days
    step *= stride
    ticks = [(turn - 20 * step + i * step) % turn for i in range(count // stride)]
    times, timeline = place_all(ticks, time_base, 1 / (step * time_base), [turn])
    assert timeline.wrapped >= wraps - 1
    assert timeline.resets == 0
    assert times[-1] == round((len(ticks) - 1) * step * time_base * 1_000_000)


def test_a_matroska_cluster_of_over_32_s_falls_back_and_the_next_one_jumps_ahead():
    true = list(range(0, 120_000, 40))
    said = [t if t < 32_768 or t >= 70_000 else t - 65_536 for t in true]
    times, timeline = place_all(said, wraps=[1 << 16])
    assert times == [t * 1000 for t in true]
    assert timeline.wrapped == 2


def test_a_gap_as_long_as_a_turn_is_a_gap_where_nothing_ran_over():
    times, _ = place_all([0, 40, 80, 120 + 65_536, 160 + 65_536], wraps=[1 << 16])
    assert times[3:] == [65_656_000, 65_696_000]


def test_times_of_arrival_are_never_held():
    timeline = Timeline(Fraction(1, 1_000_000), Fraction(30), hold=False)
    for stamp in (0, 33_333, 90_000_000, 90_000_001, 7_000_000_000):
        assert len(timeline.place(stamp, stamp)) == 1


@st.composite
def pieces(draw):
    """Ticks of a stream in pieces, and how many frames it has: steps, strays, restarts, gaps, none, repeats."""
    step = draw(st.sampled_from([10, 33, 40, 1000]))
    ticks, at = [], draw(st.integers(-(10**6), 10**6))
    for _ in range(draw(st.integers(1, 8))):
        for _ in range(draw(st.integers(1, 40))):
            ticks.append(at)
            at += step
        match draw(st.integers(0, 6)):
            case 0:
                ticks.append(at + draw(st.integers(-(10**8), 10**8)))
            case 1:
                at = draw(st.integers(-(10**7), 10**7))
            case 2:
                at += draw(st.integers(0, 10**6))
            case 3:
                ticks += [None] * draw(st.integers(1, 5))
            case 4:
                ticks += [ticks[-1] or 0] * draw(st.integers(1, 5))
            case 5:
                at -= draw(st.integers(0, 2000))
            case 6:
                at += 1 << 16
    return ticks


@settings(max_examples=150, deadline=None)
@given(pieces(), st.booleans())
def test_every_frame_is_placed_or_counted_once_and_times_only_rise(ticks, wraps):
    timeline = Timeline(Fraction(1, 1000), Fraction(25), [1 << 16] if wraps else [])
    out, held_most = [], 0
    for number, t in enumerate(ticks):
        out += timeline.place(number, t)
        held_most = max(held_most, number + 1 - len(out))
    out += timeline.end()
    assert [one.item for one in out] == list(range(len(ticks)))  # none lost, none twice, in order
    kept = [one.pts_us for one in out if one.pts_us is not None]
    assert len(ticks) - len(kept) == timeline.left_out
    assert kept[0] == 0
    assert all(a < b for a, b in pairwise(kept))
    assert held_most < MAX_HELD


@settings(max_examples=80, deadline=None)
@given(
    st.integers(5, 60),
    st.sets(st.integers(3, 50), max_size=3),
    st.integers(1_200, 10**8),
    st.sampled_from([1, -1]),
)
def test_lone_strays_anywhere_cost_no_frame_and_no_time(count, where, far, sign):
    ticks = [40 * i for i in range(count)]
    for at in where:
        if at < count - 1 and not {at - 1, at - 2, at + 1} & where:
            ticks[at] += sign * far
    times, timeline = place_all(ticks)
    assert times[-1] == 40_000 * (count - 1)
    assert timeline.left_out == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(4, 60), min_size=1, max_size=6), st.integers(-(10**9), 10**9))
def test_recordings_put_behind_each_other_have_the_length_of_all(lengths, start):
    ticks, at = [], 0
    for length in lengths:
        ticks += [at + 40 * i for i in range(length)]
        at += 40 * length + start if abs(start) > HOUR else -(10**7)
    assert place_all(ticks)[0] == every(40_000, sum(lengths))


UNITS = [Fraction(1, 1000), Fraction(1, 10_000), MPEG, Fraction(1, 10**6), Fraction(1, 10**9)]


@st.composite
def known(draw):
    """Ticks of frames 40 ms apart, the unit that they count in, and when each of them was, ms.

    Runs, and between them strays, stamps that are missing, gaps, clocks set anew, and counters that run over.
    """
    unit = draw(st.sampled_from(UNITS))
    wrap = draw(st.sampled_from([None, 1 << 33])) if unit == MPEG else None
    at = draw(st.integers(-(10**6), 10**6) if wrap is None else st.integers(wrap // 90 - 5_000, wrap // 90))
    ticks, true, now, between = [], [], 0, None
    for _ in range(draw(st.integers(1, 6))):
        match between:
            case "stray":
                ticks.append(at + draw(st.sampled_from([1, -1])) * draw(st.integers(1_500, 10**7)))
                true.append(now)
                at, now = at + 40, now + 40
            case "none":
                for _ in range(draw(st.integers(1, 3))):
                    ticks.append(None)
                    true.append(now)
                    at, now = at + 40, now + 40
            case "gap":
                # over a counter's end what is longer may as well be a clock set anew
                length = draw(st.integers(1_000, HOUR - 1_000 if wrap is None else 9_000))
                at, now = at + length, now + length
            case "anew":
                at += draw(st.sampled_from([-1, 2])) * draw(st.integers(HOUR, 3 * HOUR))
        for _ in range(draw(st.integers(6, 40))):
            ticks.append(at)
            true.append(now)
            at, now = at + 40, now + 40
        between = draw(st.sampled_from(["stray", "none", "gap", "anew", "goes on"]))
    in_units = [None if t is None else round(Fraction(t, 1000) / unit) for t in ticks]
    if wrap is not None:
        in_units = [None if t is None else t % wrap for t in in_units]
    return in_units, unit, true, wrap


@settings(max_examples=200, deadline=None)
@given(known())
def test_the_length_is_right_to_a_frame_where_it_can_be_known(sent):
    ticks, unit, true, wrap = sent
    times, timeline = place_all(ticks, unit, wraps=[] if wrap is None else [wrap])
    assert timeline.left_out == 0
    assert abs(times[-1] - 1000 * true[-1]) <= 40_000
    assert all(abs(found - 1000 * at) <= 40_000 for found, at in zip(times, true, strict=True))


def operations(ticks):
    """How often the median is sorted and frames are judged, which is what costs."""
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    calls = 0

    def counted(name):
        inner = getattr(timeline, name)

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            return inner(*args, **kwargs)

        setattr(timeline, name, call)

    for name in ("_refresh", "_judge", "_accept"):
        counted(name)
    for number, t in enumerate(ticks):
        timeline.place(number, t)
    timeline.end()
    return calls


@pytest.mark.parametrize("kind", [lambda i: 40 * i, lambda _: 0, lambda i: -40 * i, lambda i: (i % 7) * 10**7])
def test_the_cost_is_linear_in_frames(kind):
    few, many = operations(map(kind, range(500))), operations(map(kind, range(5000)))
    assert many <= 11 * few
