"""Readers of other people's weights: published STMixer files, public pre-training. Nothing in a file is executed."""
