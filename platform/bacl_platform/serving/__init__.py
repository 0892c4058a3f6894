"""Serving a detector over HTTP on Ray Serve: what is served, the application and its server."""
