"""The shell around the turn machine, one part at a time."""
