"""The example's settings, with connections that live until something is wrong with them."""

from shopfront.settings import *  # noqa: F403
from shopfront.settings import DATABASES

DATABASES["default"]["CONN_MAX_AGE"] = None  # type: ignore[assignment]  # the example has only texts there
