"""The command line: `lash-tasks`."""

from __future__ import annotations

from lash_tasks.cli.main import main

__all__ = ["main"]
