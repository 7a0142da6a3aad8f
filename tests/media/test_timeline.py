from fractions import Fraction

from stmixer.media.timeline import Timeline


def place_all(ticks, time_base=Fraction(1, 1000), rate=Fraction(25)):
    timeline = Timeline(time_base, rate)
    return [timeline.place(t) for t in ticks], timeline


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


def test_missing_timestamps_at_the_start_come_before_the_first_that_is_known():
    assert place_all([None, None, 500, 540])[0] == [0, 40_000, 80_000, 120_000]


def test_decoding_times_stand_in_where_there_is_nothing_else():
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    assert [timeline.place(None, d) for d in (10, 60, 90)] == [0, 50_000, 80_000]
    assert timeline.place(150, 130) == 140_000
    # A decoding time that is not later than the last frame is of no use.
    assert timeline.place(None, 140) == 180_000
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
    hour = 3_600_000
    times, timeline = place_all([0, 40, 80, 80 + hour + 1, 120 + hour + 1])
    assert times == [0, 40_000, 80_000, 120_000, 160_000]
    assert timeline.resets == 1
    assert place_all([0, hour])[0] == [0, hour * 1000]


def test_a_reset_takes_the_median_interval():
    times, _ = place_all([9000, 9010, 9020, 9530, 9540, 0])
    assert times[-1] == times[-2] + 10_000
