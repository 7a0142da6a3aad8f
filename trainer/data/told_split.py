"""How a set's split was made, as far as its tables say it: whether a scene or a person is on both sides.

``videos.csv`` (of pictures ``images.csv``) may have the columns ``scene`` and ``person``, any text each; several people
of a video have semicolons between them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stmixer.trainer.config.run import CustomSet, PictureSet, SetConfig
from stmixer.trainer.data.csv_table import Row, read_table
from stmixer.trainer.data.records import Part

_COLUMNS = (("scene", "scenes"), ("person", "people"))
_SHOWN = 3


def told_split(chosen: SetConfig, root: Path, part: Part, videos: Collection[str]) -> tuple[str, ...]:
    """Lines for a report's head.

    Args:
        chosen: the set.
        root: its folder.
        part: what is evaluated.
        videos: its videos or pictures.

    Raises:
        TrainError: the table cannot be read.
    """
    if not isinstance(chosen, CustomSet | PictureSet):
        return ("split: the data set's own",)
    name, column = ("videos.csv", "video") if isinstance(chosen, CustomSet) else ("images.csv", "image")
    table = read_table(root / name, (column, "split"))
    own = [row for row in table if row[column] in videos]
    others = [row for row in table if row["split"] != part]
    if not others:
        return ()
    return tuple(_told(own, others, key, many, name) for key, many in _COLUMNS)


def _told(own: list[Row], others: list[Row], key: str, many: str, table: str) -> str:
    ours, theirs = _values(own, key), _values(others, key)
    if not ours:
        return f"split by {key}: not said ({table} has no column {key}), so the same {many} may be on both sides"
    if shared := sorted(ours & theirs):
        more = ", ..." if len(shared) > _SHOWN else ""
        return (
            f"split by {key}: no, {len(shared)} of {len(ours)} {many} are on both sides ({', '.join(shared[:_SHOWN])}"
            f"{more}), so figures are kinder than for new {many}"
        )
    return f"split by {key}: yes, none of {len(ours)} {many} is on the other side"


def _values(rows: list[Row], key: str) -> set[str]:
    return {value.strip() for row in rows for value in row.get(key).split(";")} - {""}
