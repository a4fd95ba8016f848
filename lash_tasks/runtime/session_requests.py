"""What may be asked of a session itself: to come to be, and to be changed by a command. Strict, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.commands import CommandKind, SessionCommand, read_command
from lash_tasks.domain.founding import NewSession, Start
from lash_tasks.domain.frames import read_seeds
from lash_tasks.domain.ids import SessionId, name_problem
from lash_tasks.domain.policies import read_spec
from lash_tasks.errors import BlankCommandKey, InvalidInput
from lash_tasks.runtime.ingress_requests import STRICT, Context, Name, validated


def _one_of_starts(value: object) -> Start:
    if isinstance(value, str) and value in tuple(Start):
        return Start(value)
    raise ValueError("must be " + " or ".join(f"'{start.value}'" for start in Start))


def _one_of_kinds(value: object) -> CommandKind:
    if isinstance(value, str) and value in tuple(CommandKind):
        return CommandKind(value)
    raise ValueError("must be one of " + ", ".join(CommandKind))


class CreateRequest(BaseModel):
    """A session that shall come to be. Make one with `parse`."""

    model_config = STRICT

    session_id: Name
    name: Name | None = None
    agent: Name | None = None
    parent: Name | None = None
    caused_by: Context | None = None
    usage_source: Name | None = None
    start: Annotated[Start, BeforeValidator(_one_of_starts)] = Start.EMPTY
    source: Name | None = None
    spec: dict[str, JsonValue] | None = None

    @staticmethod
    def parse(values: Mapping[str, object], initial_messages: object = ()) -> NewSession:
        """The session in `values`, which begins with `initial_messages`; InvalidInput names the field that is wrong."""
        request = validated(CreateRequest, values)
        for field in ("caused_by", "usage_source"):
            if request.parent is None and getattr(request, field) is not None:
                raise InvalidInput(field, "is only for a session with a parent")
        if request.parent == request.session_id:
            raise InvalidInput("parent", "must be another session")
        try:
            seeds = read_seeds(initial_messages)
        except ValueError as error:
            raise InvalidInput("initial_messages", str(error)) from None
        spec: JsonObject = dict(request.spec or {})
        if request.agent is not None:
            spec["agent"] = request.agent
        return NewSession(
            session_id=SessionId(request.session_id),
            name=request.name,
            parent_id=None if request.parent is None else SessionId(request.parent),
            caused_by=request.caused_by,
            usage_source=request.usage_source,
            spec=read_spec(spec),
            source_id=_source(request),
            seeds=seeds,
        )


def _source(request: CreateRequest) -> SessionId | None:
    """The session that the new one begins as."""
    match request.start:
        case Start.EMPTY:
            given, field = None, None
        case Start.CURRENT_SESSION:
            given, field = request.parent, "parent"
        case Start.EXISTING_SESSION:
            given, field = request.source, "source"
    if field != "source" and request.source is not None:
        raise InvalidInput("source", f"is only for start='{Start.EXISTING_SESSION}'")
    if field is not None and given is None:
        raise InvalidInput(field, f"is required for start='{request.start}'")
    if given == request.session_id:
        raise InvalidInput(field or "start", "must be another session")
    return None if given is None else SessionId(given)


def _key(value: str) -> str:
    """A key that may be blank, which the command's own refusal says better."""
    problem = name_problem(value) if value.strip() else None
    if problem is not None:
        raise ValueError(problem)
    return value


class CommandRequest(BaseModel):
    """A command to a session on its way in. Make one with `parse`."""

    model_config = STRICT

    session_id: Name
    kind: Annotated[CommandKind, BeforeValidator(_one_of_kinds)]
    arguments: dict[str, JsonValue] = {}
    idempotency_key: Annotated[str, AfterValidator(_key)] | None = None
    agent: Name | None = None

    @staticmethod
    def parse(values: Mapping[str, object]) -> CommandRequest:
        """The request in `values`; InvalidInput names the first field that is wrong."""
        request = validated(CommandRequest, values)
        if request.idempotency_key is not None and not request.idempotency_key.strip():
            raise BlankCommandKey
        request.command()
        return request

    def command(self) -> SessionCommand:
        return read_command(self.kind, self.arguments)
