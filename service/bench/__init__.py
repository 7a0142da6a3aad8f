"""`stmixer bench`: load over real sockets, and what the service makes of it. Knows it from outside alone, but for
``faulty_service``, which starts it."""
