"""``stmixer detect``: a file from start to end in this process, without a service."""
