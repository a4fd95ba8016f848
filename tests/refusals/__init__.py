"""Dangerous combinations are refused when a worker starts, not found out when it has lost something."""
