"""Rules over what a stream's results say, what comes of them, and how that reaches people (docs/events.md)."""
