"""The `geomol` command: parses, calls, prints; no logic of its own."""

from geomol.cli.memory import use_large_pages

use_large_pages()  # torch asks at its first tensor, and modules that follow make some

from geomol.cli.app import app, main  # noqa: E402

__all__ = ["app", "main"]
