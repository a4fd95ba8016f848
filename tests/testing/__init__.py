"""`lash_tasks.testing`, used as the tests of an application use it."""
