"""Frames in, results out: the STMixer service and its command line."""
