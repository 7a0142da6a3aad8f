"""Who gives way where a table of many owners has too many rows."""

from __future__ import annotations

import sqlite3


def even_out(db: sqlite3.Connection, which: str, most: int) -> int:
    """Where there are more than so many, the oldest of those who have most give way. Returns how many.

    ``which``: a table with ``owner``, and a condition.
    """
    counts = dict(db.execute(f"SELECT owner, count(*) FROM {which} GROUP BY owner"))
    table, room, gone = which.split()[0], most, 0
    for at, (owner, count) in enumerate(sorted(counts.items(), key=lambda item: int(item[1]))):
        kept = min(count, -(-room // (len(counts) - at)))
        room -= kept
        if kept < count:
            spare = f"SELECT rowid FROM {which} AND owner = ? ORDER BY rowid LIMIT ?"
            gone += db.execute(f"DELETE FROM {table} WHERE rowid IN ({spare})", (owner, count - kept)).rowcount
    return gone
