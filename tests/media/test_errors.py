import math
import pickle

import pytest

from stmixer.media.errors import CODES, MediaError
from stmixer.media.limits import Limits


def test_an_error_keeps_its_code_across_processes():
    error = pickle.loads(pickle.dumps(MediaError("too_long", "cut it")))
    assert (error.code, error.message, str(error)) == ("too_long", "cut it", "cut it")
    assert "too_long" in CODES


@pytest.mark.parametrize("size", [(3840, 2160), (2160, 3840), (1, 1)])
def test_limits_do_not_care_which_way_up(size):
    Limits().check_size(*size)


@pytest.mark.parametrize("size", [(3841, 100), (100, 3841), (2161, 2161), (2400, 2200)])
def test_limits_on_size(size):
    with pytest.raises(MediaError) as caught:
        Limits().check_size(*size)
    assert caught.value.code == "too_large"


def test_limits_on_pixels_and_emptiness():
    with pytest.raises(MediaError, match="over the limit"):
        Limits(max_width=4000, max_height=4000, max_pixels=1000).check_size(40, 26)
    with pytest.raises(MediaError) as caught:
        Limits().check_size(0, 10)
    assert caught.value.code == "unreadable"


def test_limits_on_duration():
    Limits(max_duration_s=2).check_duration(2.0)
    with pytest.raises(MediaError) as caught:
        Limits(max_duration_s=2).check_duration(2.000001)
    assert caught.value.code == "too_long"
    assert Limits.unlimited().max_duration_s == math.inf
    with pytest.raises(MediaError):
        Limits.unlimited().check_size(16384, 16384)
