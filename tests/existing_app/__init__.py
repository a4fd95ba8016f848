"""A Celery app that was there before us keeps its settings, and our tasks keep theirs."""
