"""``stmixer-train eval``: weights on sets, and the reports of it."""
