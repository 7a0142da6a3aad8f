"""``stmixer-train import``: annotation that other tools wrote, as a set that training reads."""
