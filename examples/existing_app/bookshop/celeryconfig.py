"""The bookshop's own Celery settings, as they were before. Lash brings its own options with its tasks."""

import os

broker_url = os.environ.get("BOOKSHOP_BROKER_URL", "redis://localhost:6379/0")
result_backend = os.environ.get("BOOKSHOP_BROKER_URL", "redis://localhost:6379/0")
imports = ("bookshop.tasks",)

task_serializer = "pickle"
accept_content = ["pickle", "json"]  # the one thing that Lash asks for: json among what workers accept
task_acks_late = True
task_reject_on_worker_lost = True
task_time_limit = 300
task_default_queue = "bookshop"
task_routes = {"bookshop.tasks.print_label": {"queue": "labels"}, "*": {"queue": "bookshop"}}
beat_schedule = {"stocktaking": {"task": "bookshop.tasks.take_stock", "schedule": 3600.0}}
