"""The stores of lash-tasks, imported as `lash_tasks.stores`: Protocols, SQL, Redis and memory."""
