"""Scores that mean what they say: fitted on validation sets, folded into the weights."""
