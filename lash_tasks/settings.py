"""The settings, and the only reader of the environment (interface §2)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, SecretStr, ValidationError, ValidationInfo, field_validator

from lash_tasks.errors import ConfigurationError
from lash_tasks.queues import RESERVED_NAMESPACES

EMBEDDED_DATABASE_URL = "sqlite:///./.lash/lash.db"
NO_SCHEMAS = "SQLite has no schemas; unset it, or set LASH_DATABASE_URL to postgresql://…"
OPENAI_BASE_URL = "https://api.openai.com/v1"
ANTHROPIC_BASE_URL = "https://api.anthropic.com"


def read_variable(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The environment variable `name` as it is now; None if it is not set or empty."""
    return (os.environ if environment is None else environment).get(name) or None


class Settings(BaseModel):
    """Settings of one application. `from_environment` reads them; constructing one checks them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: str | None = None
    """`postgresql://…` (read as `postgresql+psycopg://…`) or `sqlite:///…`. Unset, `demo`, `up` and
    `Lash(embedded=True)` use `sqlite:///./.lash/lash.db`; everything else refuses."""
    database_options: dict[str, Any] = {}
    """A JSON object that reaches SQLAlchemy's `create_engine`, such as `{"pool_size": 20}`."""
    database_schema: str | None = None
    """The Postgres schema of all our tables; `lash-tasks db upgrade` creates it where it may. One application per
    schema. Unset, it is `lash_<namespace>`, and without a namespace wherever the role's `search_path` leads."""
    redis_url: str | None = None
    """Leases, live events and limits of providers: `redis://`, `rediss://` or `sentinel://`. Workers on Postgres need
    it."""
    broker_url: str | None = None
    """The Celery broker; any that Celery knows. Unset, it is `LASH_REDIS_URL`."""
    namespace: str = ""
    """Several applications on one database and broker: letters, digits, `-` and `_`. Queues and tasks become
    `lash.<namespace>.turns`, …, Redis keys `lash:<namespace>:…`; the tables lie in the schema `lash_<namespace>`, on
    SQLite in a file of their own (`lash.<namespace>.db`)."""
    lease_ttl: Annotated[float, Field(gt=0, le=3600)] = 6.0
    """Seconds that a lease and a worker's sign of life outlive their holder: how soon another worker takes over."""
    drain_grace: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds after SIGTERM in which effects in flight may finish; model calls get half of it."""
    key_retention_days: Annotated[float, Field(gt=0)] = 7.0
    """Days that ended input, and with it its idempotency key, is kept."""
    retention_days: Annotated[float, Field(gt=0)] | None = None
    """Days that the journal of a committed turn is kept. Unset keeps it."""
    max_payload_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 1024 * 1024
    """The largest input, texts and images together."""
    app: str | None = None
    """The application, as `lash-tasks -A` takes it: `module` or `module:attribute`."""
    openai_api_key: SecretStr | None = None
    """The key of the `openai` provider."""
    openai_base_url: str = OPENAI_BASE_URL
    """Where the `openai` provider asks: any Chat Completions endpoint."""
    anthropic_api_key: SecretStr | None = None
    """The key of the `anthropic` provider."""
    anthropic_base_url: str = ANTHROPIC_BASE_URL
    """Where the `anthropic` provider asks."""

    @field_validator("database_url")
    @classmethod
    def _driver(cls, url: str | None) -> str | None:
        """`postgres://` and `postgresql://` are read as `postgresql+psycopg://`."""
        if url is None:
            return None
        scheme, _, rest = url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg://{rest}"
        if scheme not in ("postgresql+psycopg", "sqlite"):
            raise ValueError("must begin with postgresql+psycopg://, postgresql://, postgres:// or sqlite:///")
        return url

    @field_validator("database_schema")
    @classmethod
    def _schema(cls, schema: str | None, info: ValidationInfo) -> str | None:
        if schema is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", schema) or schema.startswith("pg_"):
            raise ValueError("must be the name of a schema: at most 63 letters, digits, '_' and '-', and not pg_…")
        if (info.data.get("database_url") or "").startswith("sqlite"):
            raise ValueError(NO_SCHEMAS)
        return schema

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str | None) -> str | None:
        if url is not None and url.partition("://")[0] not in ("redis", "rediss", "sentinel", "unix"):
            raise ValueError("must begin with redis://, rediss:// or sentinel://")
        return url

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, url: str | None) -> str | None:
        """What kombu does not know ends in a KeyError of a worker, and what has no scheme is a host's name to it."""
        if url is None:
            return None
        from kombu.transport import TRANSPORT_ALIASES  # a process without this setting need not import it

        scheme, mark, _ = url.partition("://")
        transport = scheme.partition("+")[0]  # the rest is the database beneath, as in sqla+postgresql://
        if not mark or (transport not in TRANSPORT_ALIASES and "." not in transport):
            raise ValueError("must begin with redis://, amqp:// or the scheme of another broker that Celery knows")
        return url

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, namespace: str) -> str:
        if namespace and not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", namespace):
            raise ValueError("must be at most 40 letters, digits, '-' and '_'")
        if namespace in RESERVED_NAMESPACES:
            raise ValueError(f"must not be {namespace!r}, which names queues of its own")
        return namespace

    @property
    def lease_ttl_ms(self) -> int:
        return round(self.lease_ttl * 1000)

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        return "sqlite" if (self.database_url or "").startswith("sqlite") else "postgresql"

    def require_database_url(self) -> str:
        """The URL of this application's database; ConfigurationError if none is set.

        Under a namespace a SQLite file is `lash.x.db` where the URL says `lash.db`; Postgres has a schema instead.
        """
        if self.database_url is None:
            raise ConfigurationError("Set LASH_DATABASE_URL")
        if self.dialect == "sqlite" and self.namespace:
            return _file_of_namespace(self.database_url, self.namespace)
        return self.database_url

    def effective_schema(self) -> str | None:
        """The Postgres schema of our tables: the one that is set, else the namespace's; None is the server's choice."""
        if self.dialect == "sqlite":
            return None
        return self.database_schema or (f"lash_{self.namespace}" if self.namespace else None)

    def embedded(self) -> Settings:
        """These settings for the embedded wiring: its database where none is set, and no Redis and no broker."""
        url = self.database_url or EMBEDDED_DATABASE_URL
        if url.startswith("sqlite") and self.database_schema is not None:
            raise ConfigurationError(f"LASH_DATABASE_SCHEMA: {NO_SCHEMAS}")
        return self.model_copy(update={"database_url": url, "redis_url": None, "broker_url": None})

    def effective_broker_url(self) -> str | None:
        return self.broker_url or self.redis_url

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from the environment; ConfigurationError names the variable that is wrong."""
        values: dict[str, Any] = {}
        for field, variable in VARIABLES.items():
            text = read_variable(variable, environment)
            if text:
                values[field] = _parse_json(variable, text) if field == "database_options" else text
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            variable = VARIABLES.get(str(first["loc"][0]), str(first["loc"][0]))
            raise ConfigurationError(f"{variable}: {first['msg'].removeprefix('Value error, ')}") from None


def checked_settings(given: Settings | None) -> Settings | None:
    """The settings that a caller gives; ConfigurationError for what are none."""
    if given is not None and not isinstance(given, Settings):
        raise ConfigurationError(f"settings= must be Settings(...), not {type(given).__name__}")
    return given


VARIABLES: dict[str, str] = {
    "database_url": "LASH_DATABASE_URL",
    "database_options": "LASH_DATABASE_OPTIONS",
    "database_schema": "LASH_DATABASE_SCHEMA",
    "redis_url": "LASH_REDIS_URL",
    "broker_url": "LASH_BROKER_URL",
    "namespace": "LASH_NAMESPACE",
    "lease_ttl": "LASH_LEASE_TTL",
    "drain_grace": "LASH_DRAIN_GRACE",
    "key_retention_days": "LASH_KEY_RETENTION",
    "retention_days": "LASH_RETENTION_DAYS",
    "max_payload_bytes": "LASH_MAX_PAYLOAD_BYTES",
    "app": "LASH_APP",
    "openai_api_key": "OPENAI_API_KEY",
    "openai_base_url": "OPENAI_BASE_URL",
    "anthropic_api_key": "ANTHROPIC_API_KEY",
    "anthropic_base_url": "ANTHROPIC_BASE_URL",
}


def _file_of_namespace(url: str, namespace: str) -> str:
    location, mark, query = url.partition("?")
    path, slash, file = location.rpartition("/")
    if file in ("", ":memory:"):
        return url
    stem, dot, suffix = file.rpartition(".")
    name = f"{stem}.{namespace}.{suffix}" if dot and stem else f"{file}.{namespace}"
    return f"{path}{slash}{name}{mark}{query}"


def _parse_json(variable: str, text: str) -> Any:
    try:
        parsed = _JsonObject.model_validate({"value": text}).value
    except ValidationError:
        raise ConfigurationError(f"{variable}: must be a JSON object") from None
    return parsed


class _JsonObject(BaseModel):
    value: Json[dict[str, Any]]
