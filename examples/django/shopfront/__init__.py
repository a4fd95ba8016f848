"""A small shop on Django whose orders an agent looks after."""

from shopfront.celery import app as celery_app

__all__ = ["celery_app"]
