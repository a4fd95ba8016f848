"""What a command works on: the client of the environment's settings, and the application from `-A` or LASH_APP.

Their modules are imported when they are asked for: they bring the database and Celery along, and `--help` needs none.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lash_tasks.domain.ids import SessionId, name_problem
from lash_tasks.errors import ConfigurationError, InvalidInput

if TYPE_CHECKING:
    from lash_tasks.app import Lash
    from lash_tasks.client import Client


def open_client() -> Client:
    """A client from the environment's settings. Raises what `Client()` raises."""
    from lash_tasks.client import Client

    return Client()


def session_id(text: str) -> SessionId:
    """The session that an argument names; InvalidInput if none can have that name."""
    problem = name_problem(text)
    if problem is not None:
        raise InvalidInput("session_id", problem)
    return SessionId(text)


def moment(option: str, text: str | None) -> datetime | None:
    """The time that an option gives, in local time unless it names a zone; InvalidInput if it is none."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InvalidInput(option, "must be a time such as 2026-11-23T18:00:00+00:00") from None


def load_application(name: str | None) -> Lash:
    """The Lash that `module` or `module:attribute` is or carries; ConfigurationError says what to change."""
    from lash_tasks.app import find_lash

    if not name:
        raise ConfigurationError("name your application: lash-tasks -A module[:attribute] …, or set LASH_APP")
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no module {module_name!r} here; check -A or LASH_APP") from None
    for part in attribute.split(".") if attribute else ():
        if not hasattr(target, part):
            raise ConfigurationError(f"module {module_name!r} has no attribute {attribute!r}; check -A or LASH_APP")
        target = getattr(target, part)
    found = find_lash(target) or (find_lash(_celery_module(target)) if not attribute else None)
    if found is None:
        raise ConfigurationError(f"{name!r} holds no Lash; point -A at the module or attribute that does")
    return found


def _celery_module(package: object) -> object:
    """The package's module `celery`, where `celery -A` looks too; None if it has none."""
    name = f"{getattr(package, '__name__', '')}.celery"
    if not hasattr(package, "__path__") or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)
