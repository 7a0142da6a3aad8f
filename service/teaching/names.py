"""Names that people give and that folders and files are called by: what they may be, and nothing that is a path.

A label is what people call it, in any script; `stmixer teach` takes it from the name of a folder. It has letters,
digits, blanks and a few signs: no dot and no slash, so that it is hidden by no name and leads nowhere else.
"""

from __future__ import annotations

import unicodedata

from stmixer.service.errors import InputError

NONE = "none"
"""The label of clips of people who do none of what is taught."""
MOST_CHARACTERS = 60
MOST_BYTES = 180
"""Of a name in UTF-8: file systems take 255, and a number and an ending come to it."""
_SIGNS = " -_'’&+()"
_WORDS = "LMN"
"""Unicode's letters, marks and numbers (major categories)."""


def label_of(text: str) -> str:
    """A label in one form. Raises InputError ``bad_label``."""
    label = _checked(text, "label")
    return NONE if label.casefold() == NONE else label


def scene_of(text: str) -> str:
    """A scene in one form. Raises InputError ``bad_label``."""
    scene = _checked(text, "scene")
    if "__" in scene or scene.endswith("_"):
        raise _bad("scene", "has no two underscores together, and none at its end")
    return scene


def _checked(text: str, what: str) -> str:
    name = unicodedata.normalize("NFC", " ".join(part for part in text.split(" ") if part))
    kinds = [unicodedata.category(sign)[0] for sign in name]
    if not name or kinds[0] not in "LN":
        raise _bad(what, "begins with a letter or a digit")
    if not all(kind in _WORDS or sign in _SIGNS for kind, sign in zip(kinds, name, strict=True)):
        raise _bad(what, "has letters, digits, blanks and - _ ' & + ( ) alone")
    if len(name) > MOST_CHARACTERS or len(name.encode()) > MOST_BYTES:
        raise _bad(what, f"has at most {MOST_CHARACTERS} characters")
    return name


def _bad(what: str, why: str) -> InputError:
    return InputError("bad_label", f"a {what} {why}")
