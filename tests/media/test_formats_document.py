"""docs/formats.md lists what is read, as FFmpeg itself names it."""

import av
from conftest import TESTS

from stmixer.media.probe import DEMUXERS

DOCUMENT = TESTS.parent / "docs" / "formats.md"


def rows() -> list[str]:
    """A table row for each demuxer, those of one name once."""
    found = {}
    for name in DEMUXERS.split(","):
        demuxer = av.ContainerFormat(name, "r")
        endings = " ".join(f".{ending}" for ending in sorted(demuxer.extensions))
        found[demuxer.long_name, endings] = f"| {demuxer.long_name} | {endings} |"
    return list(found.values())


def test_every_demuxer_that_is_taken_is_there() -> None:
    """One that the pinned FFmpeg lacks would raise here."""
    assert all(av.ContainerFormat(name, "r").is_input for name in DEMUXERS.split(","))


def test_the_table_is_the_real_list() -> None:
    table = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    assert table[1:] == rows()
