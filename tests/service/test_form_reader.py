"""Forms as people write them, and which of our answers an Accept header asks for."""

from __future__ import annotations

import pytest

from stmixer.service.api.detect import preferred
from stmixer.service.api.multipart import FormReader
from stmixer.service.errors import InputError

TYPE = "multipart/form-data; boundary=B"
PART = b'Content-Disposition: form-data; name="file"\r\n\r\npicture\r\n--B--\r\n'
JSON, NDJSON, MP4 = OFFERED = ("application/json", "application/x-ndjson", "video/mp4")


@pytest.mark.parametrize("before", [b"--B\r\n", b"--B \r\n", b"--B\t \r\n", b"for people\r\n--B  \r\n"])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_first_boundary_may_have_blanks_behind_it(before: bytes, step: int) -> None:
    """RFC 2046, 5.1.1."""
    body, reader, found = before + PART, FormReader(TYPE), []
    for at in range(0, len(body), step):
        found += reader.feed(body[at : at + step])
    reader.finish()
    assert b"".join(found) == b"picture"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ((b"--B\r\n" + PART).replace(b"\r", b""), "lines end in LF"),
        (b"--C\r\n" + PART.replace(b"--B", b"--C"), "is not in"),
    ],
    ids=["bare line feeds", "another boundary"],
)
def test_what_is_wrong_with_a_form_is_said(body: bytes, said: str) -> None:
    reader = FormReader(TYPE)
    with pytest.raises(InputError, match=said):
        for _ in [*reader.feed(body), reader.finish()]:
            pass


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON), ("*/*", JSON), ("video/*", MP4), ("video/mp4", MP4), ("video/*, application/json;q=0.1", MP4),
        ("video/*;q=0.2, application/json", JSON), ("application/*", JSON), ("application/x-ndjson, */*;q=0.5", NDJSON),
        ("text/html", JSON), ("VIDEO/*", MP4), ("image/*, video/*;q=0.9", MP4),
    ],
)  # fmt: skip
def test_an_answer_is_of_the_kind_that_is_asked_for(accept: str, kind: str) -> None:
    assert preferred(accept, OFFERED) == kind
