"""Which tests stand for which kind of input, program or set that went wrong for somebody: two at least for each kind,
of inputs that the tests make themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

KINDS: dict[str, tuple[str, ...]] = {
    # length and start
    "a claimed length that is wrong": (
        "media/test_decode.py::test_the_length_is_limited_by_claim_and_by_what_comes",
        "service/test_rest_limits.py::test_too_long_a_video_that_does_not_say_so",
    ),
    "a clock that began long ago": (
        "media/test_pieces.py::test_a_segment_whose_clock_began_long_ago",
        "media/test_decode.py::test_a_positive_start_is_zero",
    ),
    "pieces of a recording": (
        "media/test_pieces.py::test_a_file_that_ends_too_early",
        "media/test_pieces.py::test_the_head_of_a_matroska_file_with_later_clusters",
        "media/test_pieces.py::test_a_segment_of_dash_behind_its_head",
        "media/test_pieces.py::test_segments_of_hls_put_behind_each_other",
    ),
    # clocks
    "stray stamps": (
        "media/test_timeline.py::test_one_stray_timestamp_moves_nothing_and_loses_no_frame",
        "media/test_timeline.py::test_two_strays_in_a_row_are_put_between_their_neighbours",
    ),
    "restarts and joined recordings": (
        "media/test_timeline.py::test_recordings_one_after_another_that_each_start_at_zero",
        "media/test_decode.py::test_a_clock_that_starts_anew_goes_on",
        "media/test_restarts.py::test_a_file_of_two_recordings_of_any_kind",
        "media/test_restarts.py::test_whole_files_put_behind_each_other_are_read_to_the_end",
        "media/test_restarts.py::test_whole_files_sent_one_after_another_are_read_to_the_end",
        "media/test_padded.py::test_files_put_behind_each_other_are_read_to_the_end",
    ),
    "stamps in another unit": (
        "service/test_picture_clock.py::test_stamps_in_another_unit_are_told_once",
        "service/test_picture_clock.py::test_a_clock_that_leaps_is_in_its_unit",
        "service/test_container_clock.py::test_stamps_in_another_unit_are_told_while_they_come",
        "media/test_pace.py::test_a_unit_that_is_a_thousand_times_off_is_told",
        "media/test_pace.py::test_milliseconds_and_microseconds_instead_of_mpegs_ticks_are_told",
    ),
    "stamps that are repeated, fall or are missing": (
        "media/test_timeline.py::test_timestamps_that_say_nothing_are_as_none",
        "media/test_timeline.py::test_missing_timestamps_follow_at_the_rate",
    ),
    "clocks that run over": (
        "media/test_timeline.py::test_a_counter_that_runs_over_goes_on",
        "media/test_wraps.py::test_mpegs_clock",
        "media/test_wraps.py::test_clusters_as_long_as_they_may_be",
        "media/test_wraps.py::test_clusters_that_are_longer_than_their_blocks_can_count",
        "service/test_gstreamer.py::test_what_obs_sends",
    ),
    "raw streams": (
        "media/test_decode.py::test_raw_streams_take_the_hinted_rate",
        "media/test_decode.py::test_a_container_with_a_clock_ignores_the_hint",
    ),
    # the picture
    "pixels that are not square": (
        "media/test_display.py::test_pixels_have_their_shape",
        "media/test_display.py::test_the_containers_pixel_shape_is_before_the_codecs",
        "offline/test_filmed_squarely.py::test_the_same_people_in_the_same_places",
    ),
    "crops of containers": (
        "media/test_display.py::test_the_crop_of_matroska_is_applied",
        "media/test_display.py::test_the_clean_aperture_of_mp4_is_applied",
    ),
    "pictures that are turned": (
        "media/test_decode.py::test_frames_are_shown_as_the_display_matrix_says",
        "media/test_jpeg.py::test_exif_orientation_is_applied",
    ),
    "another size in mid-stream": (
        "browser/test_recordings.py::test_a_phone_that_is_turned",
        "media/test_display.py::test_a_drawn_copy_fits_pictures_of_another_size_in",
    ),
    "interlaced pictures": ("media/test_display.py::test_interlaced_pictures_have_no_combs",),
    "colours": (
        "media/test_display.py::test_the_colours_of_vp8_are_what_the_container_says",
        "media/test_display.py::test_grey_of_limited_range_is_stretched",
        "media/test_display.py::test_what_we_write_has_its_colours_and_says_which",
    ),
    # live pictures and containers
    "pictures that are no whole JPEG": (
        "media/test_jpeg.py::test_a_missing_end_is_put_there",
        "media/test_jpeg.py::test_what_is_sent_instead_is_named_with_what_is_wanted",
    ),
    "streams that are joined in their middle": (
        "media/test_joined_anywhere.py::test_it_begins_with_the_next_keyframe",
        "media/test_joined_anywhere.py::test_behind_its_tables_it_may_be_joined_anywhere",
        "media/test_joined_anywhere.py::test_without_its_tables_it_waits_for_those_of_the_next_beginning",
    ),
    "another video that takes over": (
        "media/test_takeover.py::test_another_video_is_followed_and_told",
        "media/test_takeover.py::test_one_of_two_videos_that_stops_gives_way_to_the_other",
        "media/test_restarts.py::test_another_recording_behind_the_first_is_followed_and_told",
        "media/test_restarts.py::test_a_file_of_two_recordings_is_read_to_its_end",
    ),
    "several videos, and covers": (
        "media/test_decode.py::test_cover_art_is_not_the_video",
        "media/test_codecs.py::test_another_track_is_read_where_the_first_has_such_a_codec",
        "media/test_decode.py::test_of_several_videos_one_is_read_and_the_others_are_told",
    ),
    # what is taken
    "containers and codecs": (
        "media/test_codecs.py::test_a_listed_codec_is_read",
        "media/test_codecs.py::test_any_other_codec_is_named_in_the_error",
    ),
    "what is no video": (
        "media/test_decode.py::test_what_is_no_video",
        "media/test_external.py::test_playlists_fetch_nothing",
        "media/test_sniff.py::test_it_is_named",
    ),
    # browsers and senders
    "recordings of browsers": (
        "browser/test_recordings.py::test_a_recording",
        "browser/test_recordings.py::test_a_tab_in_the_background",
        "browser/test_recordings.py::test_a_page_streams_its_camera_as_it_records",
    ),
    "senders of GStreamer and OBS": (
        "service/test_gstreamer.py::test_what_it_muxes",
        "service/test_gstreamer.py::test_what_obs_sends",
    ),
    "players of what we draw": (
        "browser/test_recordings.py::test_chromium_plays_what_we_draw",
        "service/test_gstreamer.py::test_it_plays_what_we_draw",
    ),
    # clients, and the way to us
    "delays of small answers": (
        "service/test_connections.py::test_answers_leave_at_once",
        "service/test_connections.py::test_the_clients_media_leave_at_once",
        "service/test_connections.py::test_what_a_camera_is_asked_leaves_at_once",
    ),
    "clients that take much": (
        "service/test_connections.py::test_who_has_used_up_the_share_is_not_read_for_a_while",
        "service/test_uploads.py::test_uploads_on_their_way_shut_nobody_out",
        "service/test_idle_slots.py::test_an_upload_that_drips_is_ended",
    ),
    "streams that nobody is connected to": (
        "service/test_uploads.py::test_a_stream_that_nobody_is_connected_to_gives_way",
        "service/test_uploads.py::test_the_first_one_left_gives_way_and_who_comes_back_begins_anew",
    ),
    "proxies": (
        "service/test_entrance.py::test_with_the_prefix_and_without_it_the_same_is_meant",
        "service/test_entrance.py::test_who_asked_is_what_named_proxies_say",
    ),
    "probes": (
        "service/test_entrance.py::test_head_is_answered_as_get",
        "service/test_entrance.py::test_a_target_that_is_a_whole_address",
    ),
    "what a proxy answers in our place": (
        "service/test_client.py::test_what_a_proxy_answers_in_our_place_is_no_answer",
        "service/test_client.py::test_a_stream_that_is_not_let_in_says_so",
    ),
    "a full disk": (
        "service/test_rest_limits.py::test_a_full_disk_is_explained",
        "trainer/test_full_disk.py::test_the_checkpoint_before_stays",
    ),
    # sets and models
    "files that are no checkpoint": (
        "model/test_foreign_files.py::test_what_is_no_checkpoint_is_named",
        "model/test_foreign_files.py::test_a_pointer_instead_of_an_onnx_file",
    ),
    "names and numbers of foreign weights": (
        "model/test_foreign_files.py::test_prefixes_of_wrappers_are_taken_off",
        "model/test_foreign_files.py::test_numbers_that_are_none_are_refused_by_name",
    ),
    "keyframes of sets": (
        "trainer/test_sets.py::test_evaluation_keyframes_are_all_that_is_annotated",
        "trainer/test_sets.py::test_keyframes_lie_where_the_container_shows_the_frame",
    ),
}


def there_is(test: str) -> bool:
    """Whether there is this test."""
    file, name = test.split("::")
    path = TESTS / file
    return path.is_file() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_tests(kind: str) -> None:
    tests = KINDS[kind]
    assert [test for test in tests if not there_is(test)] == []
    inputs = sum(len(_inputs(test)) for test in tests)
    assert inputs >= 2


def _inputs(test: str) -> list[str]:
    """One for each test, and for each that is parametrized at least two."""
    file, name = test.split("::")
    before = (TESTS / file).read_text().split(f"def {name}(")[0].rsplit("\n\n\n", 1)[-1]
    return [test] * (2 if "parametrize" in before else 1)
