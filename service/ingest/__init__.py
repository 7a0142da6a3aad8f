"""Sources of frames: the decoder processes, and the sessions that feed them."""
