"""docs/formats.md lists what is read, as FFmpeg itself names it."""

import itertools

import av
from conftest import TESTS

from stmixer.media.probe import DECODERS, DEMUXERS

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
    assert table("| Container or stream |") == rows()


def codecs() -> list[str]:
    """A table row for each codec that is decoded."""
    named = {av.Codec(name, "r").canonical_name: av.Codec(name, "r").long_name for name in DECODERS.split(",")}
    return [f"| {name} | {long_name} |" for name, long_name in named.items()]


def test_every_decoder_that_is_taken_is_there() -> None:
    """One that the pinned FFmpeg lacks would raise here."""
    assert all(av.Codec(name, "r").type == "video" for name in DECODERS.split(","))


def test_the_table_of_codecs_is_the_real_list() -> None:
    assert table("| Codec |") == codecs()


def table(head: str) -> list[str]:
    """The rows of the document's table that begins like this."""
    lines = DOCUMENT.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(head)) + 2
    return list(itertools.takewhile(lambda line: line.startswith("| "), lines[first:]))
