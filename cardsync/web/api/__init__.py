"""The HTTP API for services: ordinary blocking Flask views, on threads."""
