"""Streams, rings, scheduler, workers as the API process sees them. Imports neither torch nor a web framework."""
