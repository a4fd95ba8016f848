"""The embedded wiring: one process, one SQLite file, no server."""
