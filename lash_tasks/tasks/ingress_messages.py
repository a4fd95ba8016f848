"""What a worker tells of ingress messages in its log, its events and to Flower: whom they are for, never what they say.

By itself Celery shows all arguments, in the words of the sender where the message brings such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.saferepr import saferepr
from celery.worker.request import Request

SHOWN = ("session_id", "agent", "idempotency_key", "input_id", "turn_id", "kind", "when")
HIDDEN = "..."
MAX_SHOWN = 1024


def shown(arguments: object) -> str:
    """The arguments of an ingress task as others may see them."""
    if not isinstance(arguments, Mapping):
        return HIDDEN
    return str(saferepr({name: arguments[name] for name in SHOWN if name in arguments}, MAX_SHOWN))


class IngressRequest(Request):
    """A message to an ingress task in a worker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._argsrepr, self._kwargsrepr = HIDDEN if self._args else "()", shown(self._kwargs)
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def info(self, safe: bool = False) -> Any:
        """What `celery inspect` and Flower are told of it."""
        return super().info(safe=True)
