"""What can be wrong with somebody's video, in one type.

Every failure of this package that is the input's fault is a :class:`MediaError`; whatever else escapes is a bug,
or an exception of the file object that the caller handed in, which passes through unchanged.
"""

from typing import Final, Literal, get_args

Code = Literal[
    "unreadable",
    "no_video",
    "no_frames",
    "encrypted",
    "unsupported_codec",
    "too_large",
    "too_long",
    "external_resource",
    "aspect_unsupported",
    "unauthorized",
    "no_such_path",
    "silent",
    "bad_answer",
    "connection_lost",
]

CODES: Final[tuple[Code, ...]] = get_args(Code)


class MediaError(Exception):
    """A video or picture that cannot be used.

    Attributes:
        code: one of :data:`CODES`; stable, for programs.
        message: one line for people: the cause, then what to do about it.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message

    def __reduce__(self) -> tuple[type["MediaError"], tuple[Code, str]]:
        # Crosses process borders (the decoders are processes), and Exception's own pickling would lose the code.
        return MediaError, (self.code, self.message)
