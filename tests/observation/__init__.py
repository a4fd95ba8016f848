"""Waiting for results and following sessions, on real SQL and a clock that tests move."""
