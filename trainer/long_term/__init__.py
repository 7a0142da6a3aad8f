"""The long-term query bank of a set, and the windows that are cut from it (paper §3.5)."""
