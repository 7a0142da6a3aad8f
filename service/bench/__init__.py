"""`stmixer bench`: load over real sockets, and what the service makes of it. Knows the service from outside alone."""
