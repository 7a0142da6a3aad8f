"""``stmixer teach``: from a folder of clips by label to weights that are served."""
