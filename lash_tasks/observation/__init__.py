"""Watching a session: cursors of its live stream, and the rule for what they missed."""
