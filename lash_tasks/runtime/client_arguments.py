"""Arguments of a client's calls that are no part of a request, each refused by its name where it cannot be right."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import cast

from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import InvalidInput
from lash_tasks.runtime.ingress_requests import MAX_QUIET_MS, check_name


def check_session(field: str, value: object) -> SessionId:
    return SessionId(check_name(field, value))


def check_flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, f"must be True or False, not {type(value).__name__}")
    return value


def check_seconds(field: str, value: object) -> float | None:
    """How long to wait; None is for ever."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, f"must be seconds, or None, not {type(value).__name__}")
    if not value >= 0:  # true for a NaN as well
        raise InvalidInput(field, f"must be at least 0 seconds, not {value}")
    return value


def check_stop(field: str, value: object) -> threading.Event | None:
    """A threading.Event, or what is used like one."""
    if value is not None and not (callable(getattr(value, "is_set", None)) and callable(getattr(value, "wait", None))):
        raise InvalidInput(field, f"must be a threading.Event, or None, not {type(value).__name__}")
    return cast("threading.Event | None", value)


def check_revision(field: str, value: object, *, fresh: bool) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(field, "must be a whole number of at least 0")
    if not fresh:
        raise InvalidInput(field, "goes with fresh=True only")
    return value


def quiet_ms(quiet: float | timedelta | None) -> int | None:
    if quiet is None:
        return None
    if isinstance(quiet, bool) or not isinstance(quiet, int | float | timedelta):
        raise InvalidInput("quiet", f"must be seconds or a timedelta, not {type(quiet).__name__}")
    seconds = quiet.total_seconds() if isinstance(quiet, timedelta) else quiet
    longest = MAX_QUIET_MS // 1000
    if not 0.001 <= seconds <= longest:  # false for a NaN as well
        raise InvalidInput("quiet", f"must be from 0.001 to {longest} seconds")
    return round(seconds * 1000)


def milliseconds(field: str, moment: datetime | None) -> int | None:
    """A moment as epoch milliseconds."""
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidInput(field, "must be a datetime with a time zone")
    return int(moment.timestamp() * 1000)
