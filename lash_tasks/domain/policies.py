"""What a session says over its agent's own policy, and what the two come to for a turn.

An overlay is stored as the JSON object of what was said, and nothing else. None of it is a secret: keys of model
servers are never part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonObject, JsonValue, canonical, parse, scrub, to_json
from lash_tasks.domain.ids import name_problem
from lash_tasks.domain.models import DEFAULT_OPTIONS, ModelOptions
from lash_tasks.errors import ConfigurationError, InvalidInput

UNBOUNDED = 2**31 - 1
"""Stands for no bound of model calls: such a turn ends by its time."""
MAX_INSTRUCTIONS = 64 * 1024
MAX_TOOLS = 1000
APPEND, REPLACE = "append", "replace"
_OPTIONS = frozenset({"temperature", "max_output_tokens", "reasoning_effort", "timeout", "extra"})
_LEGACY = (
    "holds a provider's configuration; say the model as 'provider:model' and configure providers in the application"
)


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What a session says over its agent's policy. Make one with `read_spec`.

    What is not in `given` keeps what is beneath. A null takes back what the session had said; for `max_turns` it says
    that there is no bound. With `inherit` false nothing of what the session had said before counts.
    """

    given: JsonObject
    inherit: bool = True

    @property
    def agent(self) -> str | None:
        """Whose policy it lies over where no input says so."""
        agent: str | None = self.given.get("agent")
        return agent

    @property
    def tools(self) -> tuple[str, ...] | None:
        """The only tools that turns get; None: all of the agent."""
        tools: list[str] | None = self.given.get("tools")
        return None if tools is None else tuple(tools)

    def over(self, base: SessionSpec) -> SessionSpec:
        """What the session says once this is laid over `base`."""
        beneath = base.given if self.inherit else {}
        given = {**beneath, **self.given}
        return SessionSpec({name: value for name, value in given.items() if value is not None or name == "max_turns"})

    def as_json(self) -> JsonObject:
        return dict(self.given) if self.inherit else {**self.given, "inherit": False}

    def stored(self) -> str | None:
        """The column `spec` of a session; None if nothing is said."""
        return canonical(self.given).decode() if self.given else None


NOTHING_SAID_OVER = SessionSpec({})


def stored_spec(column: str | None) -> SessionSpec:
    """What `SessionSpec.stored` stored."""
    return NOTHING_SAID_OVER if column is None else SessionSpec(parse(column))


# ---------------------------------------------------------------- reading


def read_spec(values: Mapping[str, JsonValue], field: str = "spec") -> SessionSpec:
    """The overlay in `values`, names trimmed; InvalidInput names the first field that is wrong."""
    inherit = values.get("inherit", True)
    if not isinstance(inherit, bool):
        raise InvalidInput(f"{field}.inherit", "must be true or false")
    given: JsonObject = {}
    for name, value in values.items():
        if name == "inherit":
            continue
        if name == "provider":
            raise InvalidInput(f"{field}.provider", _LEGACY)
        if name not in _READERS:
            raise InvalidInput(f"{field}.{shown_name(name)}", "is not a known field")
        given[name] = None if value is None else _READERS[name](f"{field}.{name}", value)
    return SessionSpec(given, inherit)


def read_model(field: str, value: JsonValue) -> str:
    """`provider:model`, both trimmed."""
    text = _name(field, value)
    provider, _, model = text.partition(":")
    if not provider.strip() or not model.strip():
        raise InvalidInput(field, f"must be 'provider:model', such as 'openai:gpt-5-mini', not {text!r}")
    return f"{provider.strip()}:{model.strip()}"


def _name(field: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be a string, not {_kind(value)}")
    problem = name_problem(value)
    if problem is not None:
        raise InvalidInput(field, problem)
    return value.strip()


def _max_turns(field: str, value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < UNBOUNDED:
        raise InvalidInput(field, "must be a whole number of at least 1, or null for no bound")
    return value


def _instructions(field: str, value: JsonValue) -> JsonObject:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict) or not value.keys() <= {"text", "mode"} or not isinstance(value.get("text"), str):
        raise InvalidInput(field, "must be a text, or an object of text and mode")
    text, mode = scrub(value["text"]), value.get("mode", APPEND)
    if mode not in (APPEND, REPLACE):
        raise InvalidInput(f"{field}.mode", f"must be '{APPEND}' or '{REPLACE}'")
    if not text.strip() and mode == APPEND:
        raise InvalidInput(f"{field}.text", "must not be empty")
    if len(text) > MAX_INSTRUCTIONS:
        raise InvalidInput(f"{field}.text", f"is {len(text)} characters and may be at most {MAX_INSTRUCTIONS}")
    return {"text": text, "mode": mode}


def _options(field: str, value: JsonValue) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInput(field, f"must be an object, not {_kind(value)}")
    for name in value:
        if name not in _OPTIONS:
            raise InvalidInput(f"{field}.{shown_name(name)}", "is not a known field")
    try:
        ModelOptions(**value)
    except ConfigurationError as error:
        raise InvalidInput(field, error.sentence().removeprefix("ModelOptions: ")) from None
    plain: JsonObject = parse(canonical(scrub(value)))
    return plain


def _tools(field: str, value: JsonValue) -> list[str]:
    if not isinstance(value, list | tuple) or len(value) > MAX_TOOLS:
        raise InvalidInput(field, f"must be a list of at most {MAX_TOOLS} names of tools")
    return list(dict.fromkeys(_name(f"{field}[{index}]", tool) for index, tool in enumerate(value)))


_READERS: Mapping[str, Callable[[str, JsonValue], JsonValue]] = {
    "agent": _name,
    "model": read_model,
    "max_turns": _max_turns,
    "instructions": _instructions,
    "options": _options,
    "tools": _tools,
}


def shown_name(name: object) -> str:
    """The name of an unknown field, fit for a sentence whatever the caller wrote."""
    text = name if isinstance(name, str) else repr(name)
    return "".join(character if character.isprintable() else "?" for character in text)[:80]


def _kind(value: object) -> str:
    return type(value).__name__


# ---------------------------------------------------------------- resolving


def overlaid(agent: AgentSnapshot, spec: SessionSpec, model: str | None = None) -> AgentSnapshot:
    """What a turn of the session goes by: `agent` with `spec` over it, and over both the `model` of this one turn.

    The turn stays pinned to `agent`, and the spec of a session is the same as long as a turn of it is unfinished.
    """
    given = spec.given
    chosen = model or given.get("model") or agent.model
    wanted = spec.tools
    said = given.get("instructions")
    return replace(
        agent,
        model=chosen,
        fallbacks=tuple(name for name in agent.fallbacks or () if name != chosen) or None,
        max_iterations=(given["max_turns"] or UNBOUNDED) if "max_turns" in given else agent.max_iterations,
        instructions=said["text"] if said and said["mode"] == REPLACE else agent.instructions,
        appended_instructions=said["text"] if said and said["mode"] == APPEND else None,
        options=_merged(agent.options, given.get("options")),
        tools=agent.tools if wanted is None else tuple(tool for tool in agent.tools if tool.name in wanted),
    )


def _merged(own: ModelOptions | None, given: JsonObject | None) -> ModelOptions | None:
    if not given:
        return own
    merged = replace(own or DEFAULT_OPTIONS, **given)
    return None if merged == DEFAULT_OPTIONS else merged


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """What turns of a session go by: its agent's own policy with what the session says over it."""

    agent: str
    model: str
    """`provider:model`."""
    max_turns: int | None
    """Model calls of one turn; None: no bound."""
    instructions: str | None
    """None where a function of the turn renders them."""
    appended_instructions: str | None
    options: ModelOptions
    tools: tuple[str, ...]
    orphaned_tools: tuple[str, ...]
    """Tools that the session was given and that the agent does not have: they are off."""

    @property
    def provider_id(self) -> str:
        return self.model.partition(":")[0]

    def as_json(self) -> JsonObject:
        plain: JsonObject = to_json(SessionPolicy, self)
        return {"max_turns": None, **plain, "provider_id": self.provider_id}


def policy_of(agent: AgentSnapshot, spec: SessionSpec) -> SessionPolicy:
    """The effective policy of a session whose agent is `agent`."""
    effective = overlaid(agent, spec)
    own = {tool.name for tool in agent.tools}
    return SessionPolicy(
        agent=agent.name,
        model=effective.model,
        max_turns=None if effective.max_iterations == UNBOUNDED else effective.max_iterations,
        instructions=effective.instructions,
        appended_instructions=effective.appended_instructions,
        options=effective.options or DEFAULT_OPTIONS,
        tools=tuple(tool.name for tool in effective.tools),
        orphaned_tools=tuple(name for name in spec.tools or () if name not in own),
    )
