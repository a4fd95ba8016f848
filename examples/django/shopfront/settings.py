"""Django's settings. Those of Lash come from the environment, and LASH_DATABASE_URL names the same database.

That the two are one is what lets a view write an order and send a message in one transaction.
"""

import os
from urllib.parse import urlsplit

_database = urlsplit(os.environ.get("DATABASE_URL", "postgresql://postgres@localhost:5432/shopfront"))

SECRET_KEY = os.environ.get("SECRET_KEY", "only for development")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shopfront.urls"
INSTALLED_APPS = ["orders"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path.lstrip("/"),
        "USER": _database.username or "",
        "PASSWORD": _database.password or "",
        "HOST": _database.hostname or "",
        "PORT": str(_database.port or ""),
        "OPTIONS": {"application_name": "shopfront"},
    }
}

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
