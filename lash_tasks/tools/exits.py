"""What code of an application may raise that is no `Exception`, and that must not end the thread that called it."""

from __future__ import annotations

from asyncio import CancelledError

EXITS = (SystemExit, CancelledError)
"""`sys.exit()` in a library, or a task of a loop of its own that was cancelled: to a turn they are failures."""
