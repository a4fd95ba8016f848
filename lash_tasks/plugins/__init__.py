"""Plugins: code of the application that takes part in the turns of an agent."""
