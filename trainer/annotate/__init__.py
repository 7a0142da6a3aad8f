"""Drafts of boxes for videos that nobody has annotated, and clips without people."""
