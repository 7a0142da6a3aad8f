"""A lesson that is given over the wire: its clips on disk, the process that learns, what came of it."""
