"""One subscriber's life: a stream, its results, and coming back to it."""
