"""The project's Celery app, with a Lash in it that finds the agents of the installed apps.

celery -A shopfront worker -P threads -c 20
"""

import os

from celery import Celery

from lash_tasks import Lash

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shopfront.settings")

app = Celery("shopfront")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

lash = Lash(celery=app)
lash.autodiscover()
