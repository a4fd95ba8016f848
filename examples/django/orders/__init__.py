"""Orders, and the agent that looks after them."""
