"""The wire: HTTP and WebSocket, problems, the request log. The only room that knows a web framework."""
