"""Real clips: the good ones read in full, each odd one gives frames or an error that says what is wrong."""

import itertools
import re
import subprocess
import sys
import time

import pytest

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError

# Frames as the shared clips' INDEX.tsv counts them, and the size as displayed.
GOOD = {
    "fall_vfr_vga.mp4": (178, 640, 480),
    "gt_pedestrians.avi": (543, 480, 360),
    "intel_onebyone_139s.mp4": (1394, 768, 432),
    "jhmdb_catch.avi": (40, 320, 240),
    "k400_clean_and_jerk.mp4": (300, 455, 256),
    "k400_ta_chi.mp4": (300, 340, 256),
    "mm_armwrestle_k400.mp4": (280, 427, 256),
    "mm_structuralize.mp4": (300, 426, 240),
    "nasa_multistream.mp4": (325, 320, 180),
    "openpose_720p50.avi": (205, 1280, 720),
    "pancake_vfr.mkv": (310, 426, 240),
    "sam2_juggle_720p.mp4": (247, 1280, 720),
    "ucf_baseball.avi": (107, 320, 240),
    "ut_punch.avi": (95, 388, 280),
}

# (frames, width, height, degrees clockwise, mirrored). Where INDEX.tsv stops at the first error, the rest is read too.
ODD = {
    "18x32_420p_action-libx264.264": (10, 18, 32, 0, False),
    "BA_MW_D_IDR_LOST.264": (70, 176, 144, 0, False),
    "CAMA3_Sand_E.264": (50, 352, 288, 0, False),
    "Error_I_P.264": (6, 352, 288, 0, False),
    "H264_bad_decoding.264": (11, 352, 288, 0, False),
    "akiyo224x176_1-300_no_deblock.264": (297, 224, 176, 0, False),
    "bbb_176x144_128kbps_15fps_h263.3gp": (15, 176, 144, 0, False),
    "bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4": (120, 1137, 640, 0, False),
    "bbb_800x640_768kbps_30fps_vp9.mp4": (120, 1138, 640, 0, False),
    "bear-vp9-odd-dimensions.webm": (30, 161, 121, 0, False),
    "bt709_full_range.mp4": (30, 1280, 720, 0, False),
    "cockatoo.mp4": (280, 1280, 720, 0, False),
    "corrupted.mp4": (49, 1280, 720, 0, False),
    "edit_list_positive_shift.mp4": (270, 1920, 1080, 0, False),
    "h264_10bits.mp4": (30, 200, 200, 0, False),
    "h265_10bits.mp4": (30, 200, 200, 0, False),
    "h265_bframes.mp4": (30, 854, 480, 0, False),
    "hdr10-av1.mp4": (127, 720, 1280, 0, False),
    "iibbibb_editlist_videoonly.mp4": (12, 704, 576, 0, False),
    "imageio_issue245.gif": (1, 30, 24, 0, False),
    "internal_emulator_transformer_output_270_rotated.mp4": (149, 720, 1280, 270, False),
    "mv_with_2_top_shots.mp4": (53, 1080, 1440, 270, False),
    "null_video_320x240.264": (2, 320, 240, 0, False),
    "preroll-5s.mp4": (125, 640, 360, 0, False),
    "sample-with-large-length.avi": (58, 256, 144, 0, False),
    "sample_android_slow_motion.mp4": (7, 1280, 720, 0, False),
    "sample_av1.mp4": (30, 1080, 720, 0, False),
    "sample_edit_list.mp4": (77, 1080, 1920, 90, False),
    "sample_empty_track.mp4": (30, 1080, 720, 0, False),
    "sample_fragmented.mp4": (30, 1080, 720, 0, False),
    "sample_h265_rps_pred.ts": (16, 914, 686, 0, False),
    "sample_mdat_too_long.mp4": (30, 1080, 720, 0, False),
    "sample_partially_fragmented.mp4": (30, 1080, 720, 0, False),
    "sample_rotate_and_reflect.mp4": (30, 720, 1080, 270, True),
    "sample_vvc.mp4": (120, 320, 180, 0, False),
    "sample_with_invalid_nalu.mp4": (29, 1080, 720, 0, False),
    "sample_with_ssa_subtitles.mkv": (30, 1080, 720, 0, False),
    "silent-black-10s.mp4": (300, 320, 240, 0, False),
    "video_0.mov": (3, 568, 320, 0, False),
    "video_270.mov": (3, 320, 568, 270, False),
    "video_90.mov": (3, 320, 568, 90, False),
    "water_180_mvhevc_5frames.mov": (5, 1934, 2160, 0, False),
}

# Only an error goes with these; FFmpeg words some of them differently from version to version.
BAD = {
    "aac-sample.mp4": {"no_video"},
    "fuzz_mopt99.mp4": {"no_video"},
    "fuzz_new.avi": {"unreadable"},
    "gizmo-frag-2.mp4": {"encrypted"},
    "moz_chunk_out_of_range.mp4": {"unreadable"},
    "moz_short-cenc.mp4": {"encrypted"},
    "sample_fragmented_clearkey.mp4": {"encrypted"},
    "sample_fragmented_uuid.mp4": {"unreadable", "encrypted"},
    "testcase.264": {"unreadable", "no_frames"},
    "video_dovi_3840x2160_30fps_dav1_10.mp4": {"unsupported_codec"},
}
SLOW = {"long_4k_av1.mp4"}


def test_every_clip_has_its_expectation(clip):
    names = re.findall(r"^(\S+\.\w+)\t", clip("INDEX.tsv").read_text(), re.MULTILINE)
    known = GOOD.keys() | {f"odd/{name}" for name in ODD.keys() | BAD.keys() | SLOW}
    assert set(names) == known


@pytest.mark.parametrize("name", GOOD)
def test_good_clips_read_in_full(clip, name):
    with VideoReader(clip(name), limits=Limits()) as reader:
        times = [(frame.pts_us, frame.width, frame.height) for frame in reader]
    count, width, height = GOOD[name]
    assert len(times) == count
    assert {(w, h) for _, w, h in times} == {(width, height)}
    assert times[0][0] == 0
    assert all(a < b for (a, *_), (b, *_) in itertools.pairwise(times))
    assert reader.dropped == {}
    assert reader.info.duration_s == pytest.approx(times[-1][0] / 1e6, abs=0.2)


@pytest.mark.parametrize("name", ODD)
def test_odd_clips_give_frames(clip, name):
    with VideoReader(clip(f"odd/{name}"), limits=Limits()) as reader:
        frames = 0
        last = -1
        for frame in reader:
            if frames == 0:
                assert frame.rgb().shape == (reader.info.height, reader.info.width, 3)
                assert frame.resized(64, 48).shape == (48, 64, 3)
            assert frame.pts_us > last
            last = frame.pts_us
            frames += 1
    info = reader.info
    assert (frames, info.width, info.height, info.rotation, info.mirrored) == ODD[name]


@pytest.mark.parametrize("name", BAD)
def test_odd_clips_that_cannot_be_used_say_why(clip, name):
    with pytest.raises(MediaError) as caught, VideoReader(clip(f"odd/{name}"), limits=Limits()) as reader:
        list(reader)
    assert caught.value.code in BAD[name]


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_long_4k_av1_is_fast_and_bounded(clip):
    """All 21 766 frames of 4K: faster than it plays, in less memory than a second of it would take as pictures."""
    path = clip("odd/long_4k_av1.mp4")
    code = (
        "import sys; from stmixer.media.decode import *\n"
        "with VideoReader(sys.argv[1], limits=Limits()) as r: print(sum(1 for _ in r), r.dropped, r.warnings)\n"
        # not ru_maxrss, which a child takes over from the process that started it
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    counted, peak_kb = done.stdout.splitlines()
    assert counted == "21766 {} []"
    assert time.monotonic() - start < 362
    assert int(peak_kb) < 600 * 1024
