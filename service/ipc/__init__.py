"""Bytes between processes: channels, children, shared memory, and the messages. Knows no other room."""
