"""Data sets to clips: readers of four layouts into one form, checks before the start, decoding, augmentation, order."""
