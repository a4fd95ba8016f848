"""Real workers, real servers, and what happens to both."""
