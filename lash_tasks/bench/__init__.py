"""The benchmark, `lash-tasks bench`: real workers, a local model endpoint, and a bare control beside them."""
