"""Tools and agents: `@tool`, argument schemas, results, and the dispatcher that calls them."""
