"""Evaluators, each named by its protocol, over one input form (`tables`). Pure: arrays in, scores out."""
