"""Watching a session from outside: its live stream, cursors into it, and what SQL says besides."""
