"""HTTP and WebSocket: the only part of the service that knows a web framework, with ``app``."""
