"""STMixer, served: spatio-temporal action detection in video."""
