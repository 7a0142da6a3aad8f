"""Training itself: criterion, matcher, optimiser, the step and the loop."""
