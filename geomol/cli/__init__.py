"""The `geomol` command: parses, calls, prints; no logic of its own."""

from geomol.cli.app import app, main

__all__ = ["app", "main"]
