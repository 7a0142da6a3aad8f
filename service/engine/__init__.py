"""Streams, keyframes, scheduler, and the workers as the API process sees them. No torch, no web framework."""
