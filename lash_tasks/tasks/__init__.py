"""The Celery tasks: each parses ids, calls the runtime, and says what came of it."""

from __future__ import annotations

from lash_tasks.tasks.registration import register

__all__ = ["register"]
