"""What people may call an action: any script's letters, and nothing that a path is made of."""

from __future__ import annotations

import pytest

from stmixer.service.errors import InputError
from stmixer.service.teaching.names import MOST_CHARACTERS, label_of, scene_of


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("wave", "wave"), ("  water   plants ", "water plants"), ("aller à pied", "aller à pied"),
        ("alle\u0301", "all\u00e9"), ("चलना", "चलना"), ("歩く", "歩く"), ("sit-up_2 (left)", "sit-up_2 (left)"),
        ("don't & can't", "don't & can't"), ("None", "none"), ("NONE", "none"), ("7 jumps", "7 jumps"),
        ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
    ],
)  # fmt: skip
def test_what_a_label_may_be(given: str, label: str) -> None:
    assert label_of(given) == label


@pytest.mark.parametrize(
    "given",
    [
        "", "  ", ".", "..", "../etc", "a/b", "a\\b", ".hidden", "mine.teach", "a;b", "a\nb", "a\tb", "a\0b", "-rf",
        "_a", " \u00a0a", "a\u202eb", "a\u200bb", "a:b", "a*b", "~root", "$(x)", "x" * (MOST_CHARACTERS + 1), "字" * 61,
        "\udce9", "\u0301a", "\ud83d\ude00",
    ],
)  # fmt: skip
def test_what_it_may_not_be(given: str) -> None:
    with pytest.raises(InputError) as refused:
        label_of(given)
    assert (refused.value.code, refused.value.status) == ("bad_label", 422)


def test_scenes() -> None:
    assert scene_of("kitchen") == "kitchen"
    for wrong in ("a__b", "a_", "a/b", ""):
        with pytest.raises(InputError):
            scene_of(wrong)
