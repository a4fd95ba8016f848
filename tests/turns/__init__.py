"""Whole turns in one process, over real SQL stores: the runtime as a worker uses it, and what survives a crash."""
