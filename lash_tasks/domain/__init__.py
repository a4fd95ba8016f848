"""Values and rules: what a session, a turn, an input and an effect are. Pure; no I/O, no clock, no randomness."""
