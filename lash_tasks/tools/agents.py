"""`Agent`: a model with its instructions and tools, as an application defines it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonValue, scrub
from lash_tasks.domain.frames import Seed
from lash_tasks.domain.ids import name_problem
from lash_tasks.domain.models import DEFAULT_OPTIONS, LONGEST_SECONDS, ModelOptions
from lash_tasks.domain.turns import TurnContext
from lash_tasks.errors import ConfigurationError
from lash_tasks.machine.effects import OutputChecked
from lash_tasks.plugins.plugin import Plugin, check_methods, spec_of
from lash_tasks.plugins.signatures import takes
from lash_tasks.tools.compaction import CompactionContext, Compactor, checked_compactors, compacted
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.output import OutputType, read_output_type


@dataclass(frozen=True, slots=True)
class Agent:
    """A model, what it is told, and what it may call. Checked when it is made: ConfigurationError says what to change.

    `model` is `provider:model`, asked with `options`; `fallbacks` are models that are asked the same, in order, when a
    failure of the one before could pass and has used up its retries. `instructions` are text, or a function of the turn
    that is called once a turn and whose answer is recorded. With `output_type`, any type that pydantic can describe,
    the answer is JSON of that type: `turn.output`, `turn.output_as(...)`. `plugins` take part in its turns. A turn ends
    after `max_iterations` model calls or `max_turn_seconds`. `compact` are functions that are asked in order what a
    session goes on with that has grown long, by the command `compact_session`, or by itself after a turn whose last
    prompt took more than `compact_above_tokens` or was too long for the model.
    """

    name: str
    model: str
    _: KW_ONLY
    options: ModelOptions = DEFAULT_OPTIONS
    instructions: str | Callable[[TurnContext], str] = ""
    tools: Sequence[Tool[..., object]] = ()
    max_iterations: int = 20
    max_turn_seconds: int = 600
    fallbacks: Sequence[str] = ()
    output_type: JsonValue = None
    plugins: Sequence[Plugin] = ()
    compact: Compactor | Sequence[Compactor] = ()
    compact_above_tokens: int | None = None
    _compactors: tuple[Compactor, ...] = field(init=False, repr=False, compare=False)
    _output: OutputType | None = field(init=False, repr=False, compare=False)
    _snapshot: AgentSnapshot = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_instructions()
        if not isinstance(self.options, ModelOptions):
            raise ConfigurationError(f"agent {self.name!r}: options must be ModelOptions(...), not {self.options!r}")
        object.__setattr__(self, "_compactors", checked_compactors(f"agent {self.name!r}", self.compact))
        if self.compact_above_tokens is not None and not self._compactors:
            raise ConfigurationError(f"agent {self.name!r}: compact_above_tokens needs compact=, which says how")
        limits = ["max_iterations", "max_turn_seconds"]
        limits += [] if self.compact_above_tokens is None else ["compact_above_tokens"]
        for limit in limits:
            value = getattr(self, limit)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"agent {self.name!r}: {limit} must be a whole number of at least 1, not {value!r}"
                )
        if self.max_turn_seconds > LONGEST_SECONDS:
            raise ConfigurationError(
                f"agent {self.name!r}: max_turn_seconds must be at most {LONGEST_SECONDS}, a year, "
                f"not {self.max_turn_seconds!r}"
            )
        object.__setattr__(self, "tools", self._checked_tools())
        object.__setattr__(self, "plugins", self._checked_plugins())
        output = None if self.output_type is None else read_output_type(f"agent {self.name!r}", self.output_type)
        object.__setattr__(self, "_output", output)
        snapshot = AgentSnapshot(
            name=self.name,
            model=self.model,
            instructions=self.instructions if isinstance(self.instructions, str) else None,
            tools=tuple(tool.spec for tool in self.tools),
            max_iterations=self.max_iterations,
            max_turn_seconds=self.max_turn_seconds,
            fallbacks=tuple(self.fallbacks) or None,
            output_schema=output.schema if output is not None else None,
            options=None if self.options == DEFAULT_OPTIONS else self.options,
            plugins=tuple(map(spec_of, self.plugins)) or None,
        )
        object.__setattr__(self, "_snapshot", snapshot)

    def snapshot(self) -> AgentSnapshot:
        """What a turn is pinned to. `instructions` is None when a function renders them."""
        return self._snapshot

    def render(self, turn: TurnContext) -> str:
        """The instructions for `turn`. Whatever an instructions function raises comes through."""
        if isinstance(self.instructions, str):
            return self.instructions
        text = self.instructions(turn)
        if not isinstance(text, str):
            raise ConfigurationError(
                f"agent {self.name!r}: the instructions function must return a string, not {type(text).__name__}"
            )
        scrubbed: str = scrub(text)
        return scrubbed

    def check_output(self, text: str) -> OutputChecked:
        """Whether an answer fits the output type, which there must be."""
        if self._output is None:
            raise ConfigurationError(f"agent {self.name!r}: it has no output_type to judge an answer by")
        return self._output.check(text)

    def compacted(self, context: CompactionContext) -> tuple[Seed, ...]:
        """What the session goes on with; empty if no compactor has anything to say. What one raises comes through."""
        return compacted(self._compactors, context)

    def tool(self, name: str) -> Tool[..., object] | None:
        return next((tool for tool in self.tools if tool.name == name), None)

    def plugin(self, id_: str) -> Plugin | None:
        return next((plugin for plugin in self.plugins if plugin.id == id_), None)

    def _check_names(self) -> None:
        problem = name_problem(self.name) if isinstance(self.name, str) else "must be a string"
        if problem:
            raise ConfigurationError(f"agent {self.name!r}: name {problem}")
        self._check_model("model", self.model)
        if isinstance(self.fallbacks, str) or not isinstance(self.fallbacks, Sequence):
            raise ConfigurationError(f"agent {self.name!r}: fallbacks must be a list of models, not {self.fallbacks!r}")
        for fallback in self.fallbacks:
            self._check_model("fallback", fallback)
        models = [self.model, *self.fallbacks]
        if len(set(models)) < len(models):
            raise ConfigurationError(f"agent {self.name!r}: fallbacks must be other models than those before them")

    def _check_model(self, what: str, name: object) -> None:
        problem = name_problem(name) if isinstance(name, str) else "must be a string"
        if problem:
            raise ConfigurationError(f"agent {self.name!r}: {what} {problem}")
        provider, _, model = str(name).partition(":")
        if not provider.strip() or not model.strip():
            raise ConfigurationError(
                f"agent {self.name!r}: {what} must be 'provider:model', such as 'openai:gpt-5-mini', not {name!r}"
            )

    def _check_instructions(self) -> None:
        if isinstance(self.instructions, str):
            return
        if not callable(self.instructions) or inspect.iscoroutinefunction(self.instructions):
            raise ConfigurationError(
                f"agent {self.name!r}: instructions must be a string or a plain function of the turn, "
                f"not {self.instructions!r}"
            )
        if not takes(self.instructions, 1):
            raise ConfigurationError(
                f"agent {self.name!r}: the instructions function must take one argument, the turn, "
                f"unlike {self.instructions!r}"
            )

    def _checked_tools(self) -> tuple[Tool[..., object], ...]:
        if not isinstance(self.tools, Iterable):
            raise ConfigurationError(f"agent {self.name!r}: tools must be a list, not {self.tools!r}")
        seen: dict[str, Tool[..., object]] = {}
        for item in self.tools:
            if not isinstance(item, Tool):
                raise ConfigurationError(f"agent {self.name!r}: {item!r} is not a tool; put @tool on the function")
            if item.name in seen:
                raise ConfigurationError(
                    f"agent {self.name!r}: two tools are named {item.name!r}; rename one with @tool(name=...)"
                )
            seen[item.name] = item
        return tuple(seen.values())

    def _checked_plugins(self) -> tuple[Plugin, ...]:
        if not isinstance(self.plugins, Sequence):
            raise ConfigurationError(f"agent {self.name!r}: plugins must be a list, not {self.plugins!r}")
        seen: dict[str, Plugin] = {}
        for item in self.plugins:
            if not isinstance(item, Plugin):
                raise ConfigurationError(
                    f"agent {self.name!r}: plugin {item!r} must be an object of a class that derives from Plugin"
                )
            spec_of(item)
            check_methods(item)
            if item.id in seen:
                raise ConfigurationError(f"agent {self.name!r}: two plugins have the id {item.id!r}; give one another")
            seen[item.id] = item
        return tuple(seen.values())
