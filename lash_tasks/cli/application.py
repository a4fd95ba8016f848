"""What a command works on: the client of the environment's settings, and the application from `-A` or LASH_APP.

Their modules are imported when they are asked for: they bring the database and Celery along, and `--help` needs none.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lash_tasks.domain.ids import SessionId, name_problem
from lash_tasks.errors import ConfigurationError, InvalidInput, LashError
from lash_tasks.settings import Settings

if TYPE_CHECKING:
    from lash_tasks.app import Lash
    from lash_tasks.client import Client


def open_client() -> Client:
    """A client from the environment's settings. Raises what `Client()` raises, and creates no SQLite file."""
    from lash_tasks.client import Client

    settings = Settings.from_environment()
    require_database(settings)
    return Client(settings)


def require_database(settings: Settings, *, may_be_new: bool = False) -> None:
    """Raise ConfigurationError if the settings name a SQLite file that is not there, unless it `may_be_new`."""
    missing = missing_file(settings)
    if missing is not None and not may_be_new:
        raise ConfigurationError(f"there is no database at {missing}; {MAKE_DATABASE}")


MAKE_DATABASE = "start lash-tasks up, or mend LASH_DATABASE_URL"


def missing_file(settings: Settings) -> str | None:
    """The SQLite file that the settings name, if it is not there: only `up` and `db upgrade` make one.

    ConfigurationError if they name no file: a database in memory ends with the command.
    """
    url = settings.require_database_url()
    if settings.dialect != "sqlite":
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        file = None
    else:
        file = None if parsed.host else parsed.database
    if file in (None, "", ":memory:"):
        raise ConfigurationError("LASH_DATABASE_URL names no file; write sqlite:///path/to/lash.db")
    return None if file.startswith("file:") or os.path.exists(file) else file


def session_id(text: str, field: str = "session_id") -> SessionId:
    """The session that an argument names; InvalidInput if none can have that name, as a blank one."""
    problem = name_problem(text)
    if problem is not None:
        raise InvalidInput(field, problem)
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
    module = target = _imported(module_name)
    for part in attribute.split(".") if attribute else ():
        if not hasattr(target, part):
            where = _file_of(module)
            raise ConfigurationError(
                f"module {module_name!r}{where} has no attribute {attribute!r}; check -A or LASH_APP"
            )
        target = getattr(target, part)
    found = find_lash(target) or (find_lash(_celery_module(target)) if not attribute else None)
    if found is None:
        where = _file_of(module)
        raise ConfigurationError(f"{name!r}{where} holds no Lash; point -A at the module or attribute that does")
    return found


def _imported(name: str) -> object:
    """The module of that name; ConfigurationError says why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except LashError:
        raise  # says by itself what to change
    except Exception as error:  # whatever a user's module does
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"there is no module {name!r} here; check -A or LASH_APP") from None
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"module {name!r} cannot be imported: {problem}{_raised_at(error)}") from error


def _raised_at(error: Exception) -> str:
    """The last line of the user's own files that the error came through; a SyntaxError says that by itself."""
    here = Path.cwd()
    if isinstance(error, SyntaxError):
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(here) and "site-packages" not in path.parts:
            return f" ({path.relative_to(here)}, line {frame.lineno})"
    return ""


def _file_of(module: object) -> str:
    """Where a module lies: one of the same name may have been found before the user's."""
    file = getattr(module, "__file__", None)
    return f" ({file})" if file else ""


def _celery_module(package: object) -> object:
    """The package's module `celery`, where `celery -A` looks too; None if it has none."""
    name = f"{getattr(package, '__name__', '')}.celery"
    if not hasattr(package, "__path__") or importlib.util.find_spec(name) is None:
        return None
    return _imported(name)
