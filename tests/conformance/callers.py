"""Services that write an order and an input in one transaction of their own, each with another library."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

ORDER = "INSERT INTO orders (name) VALUES ('order 12')"


class Caller(ABC):
    """A service's connection. It is in a transaction from the first statement on until `commit` or `rollback`."""

    connection: Any
    """What the service passes as `connection=`."""
    tells_commits = False
    """Whether the library calls back after a commit."""

    @abstractmethod
    def __init__(self, url: str) -> None: ...

    @abstractmethod
    def order(self) -> None: ...

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def rollback(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class CoreCaller(Caller):
    def __init__(self, url: str) -> None:
        self.connection = create_engine(url, poolclass=NullPool).connect()

    def order(self) -> None:
        self.connection.execute(text(ORDER))

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()


class OrmCaller(CoreCaller):
    tells_commits = True

    def __init__(self, url: str) -> None:
        self.connection = Session(create_engine(url, poolclass=NullPool))


class ScopedOrmCaller(CoreCaller):
    tells_commits = True

    def __init__(self, url: str) -> None:
        self.connection = scoped_session(sessionmaker(create_engine(url, poolclass=NullPool)))

    def close(self) -> None:
        self.connection.remove()


class PsycopgCaller(Caller):
    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(False))

    def order(self) -> None:
        self.connection.execute(ORDER)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()


class PsycopgDictCaller(PsycopgCaller):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection.row_factory = dict_row


class PsycopgRawCursorCaller(PsycopgCaller):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection.cursor_factory = psycopg.RawCursor


class DjangoCaller(Caller):
    tells_commits = True

    def __init__(self, url: str) -> None:
        self.connection = django_connection(url)
        self._atomic = self._enter()

    def _enter(self) -> Any:
        atomic = importlib.import_module("django.db.transaction").atomic(using=self.connection.alias)
        atomic.__enter__()
        return atomic

    def _leave(self, error: Exception | None) -> None:
        self._atomic.__exit__(None if error is None else type(error), error, None)
        self._atomic = self._enter()

    def order(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(ORDER)

    def commit(self) -> None:
        self._leave(None)

    def rollback(self) -> None:
        self._leave(RuntimeError("roll back"))

    def close(self) -> None:
        self._atomic.__exit__(RuntimeError, RuntimeError("the service ends"), None)
        self.connection.close()


def django_connection(url: str) -> Any:
    """A connection of Django's to the database at `url`, as `django.db.connection` is one."""
    django = pytest.importorskip("django")
    conf, db, utils = (importlib.import_module(name) for name in ("django.conf", "django.db", "django.db.utils"))
    if not conf.settings.configured:
        conf.settings.configure(DATABASES={}, USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    parsed = make_url(url)
    engine = "sqlite3" if parsed.get_backend_name() == "sqlite" else "postgresql"
    database = {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": parsed.database,
        "USER": parsed.username or "",
        "PASSWORD": parsed.password or "",
        "HOST": parsed.host or "",
        "PORT": str(parsed.port or ""),
    }
    connection = utils.ConnectionHandler({"default": {}, "orders": database})["orders"]
    db.connections["orders"] = connection
    return connection


KINDS: dict[str, tuple[type[Caller], ...]] = {
    "sqlite": (CoreCaller, OrmCaller, ScopedOrmCaller, DjangoCaller),
    "postgres": (
        CoreCaller,
        OrmCaller,
        ScopedOrmCaller,
        PsycopgCaller,
        PsycopgDictCaller,
        PsycopgRawCursorCaller,
        DjangoCaller,
    ),
}
KINDS_OF_DATABASES = [(database, kind) for database, kinds in KINDS.items() for kind in kinds]


@contextmanager
def calling(kind: type[Caller], url: str) -> Iterator[Caller]:
    caller = kind(url)
    try:
        yield caller
    finally:
        caller.close()
