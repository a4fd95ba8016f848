"""The turn machine: what a turn does next, decided from recorded facts alone. Pure."""
