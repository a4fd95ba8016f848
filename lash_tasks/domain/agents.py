"""What a turn is pinned to: the snapshot of its agent, content-addressed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from lash_tasks.domain.codec import OMITTED, JsonObject, short_digest, to_json
from lash_tasks.domain.models import ModelOptions
from lash_tasks.domain.plugins import Hook, PluginSpec


class OnCrash(StrEnum):
    """What a take-over does with an attempt that began and has no outcome (effects §5.5, design §10)."""

    RETRY = "retry"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it, and what the runtime must know before it calls it."""

    name: str
    description: str
    parameters: JsonObject
    """JSON schema of the arguments object."""
    on_crash: OnCrash = OnCrash.RETRY
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AgentSnapshot:
    """Everything of an agent that decides what a turn does. A turn keeps the one it began with."""

    name: str
    model: str
    """`provider:model`."""
    instructions: Annotated[str | None, OMITTED]
    """None when a function of the turn renders them: then they are the turn's first recorded effect."""
    tools: tuple[ToolSpec, ...] = ()
    max_iterations: int = 20
    max_turn_seconds: int = 600
    fallbacks: tuple[str, ...] | None = None
    """Models that are asked when one before them cannot answer, in order; None if there are none."""
    output_schema: JsonObject | None = None
    """JSON schema that the answer has to fit; None where any text is an answer."""
    options: ModelOptions | None = None
    """None for the default ones."""
    appended_instructions: str | None = None
    """What a session says after the instructions, also after those that a function renders."""
    plugins: tuple[PluginSpec, ...] | None = None
    """In the order of the agent; None if it has none."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order in which they are asked."""
        return (self.model, *(self.fallbacks or ()))

    def ref(self) -> str:
        """The digest that names this snapshot."""
        return short_digest(to_json(AgentSnapshot, self))

    def lacks(self, pinned: AgentSnapshot) -> tuple[str, ...]:
        """What a turn pinned to `pinned` needs and the code behind this snapshot of the agent does not have.

        Texts, models, limits and schemas come from what the turn is pinned to; the functions must be there.
        """
        mine = {(tool.name, tool.on_crash) for tool in self.tools}
        missing = [f"the tool {tool.name!r}" for tool in pinned.tools if (tool.name, tool.on_crash) not in mine]
        if pinned.instructions is None and self.instructions is not None:
            missing.append("a function for its instructions")
        if pinned.output_schema is not None and self.output_schema is None:
            missing.append("an output type")
        hooks = {(plugin.id, hook) for plugin in self.plugins or () for hook in plugin.hooks}
        for plugin in pinned.plugins or ():
            gone = [hook.value for hook in plugin.hooks if (plugin.id, hook) not in hooks]
            missing += [f"the hook {hook} of the plugin {plugin.id!r}" for hook in gone]
        return tuple(missing)

    def with_hook(self, hook: Hook) -> tuple[PluginSpec, ...]:
        """The plugins that have such a hook, in the order in which it is called."""
        plugins = [plugin for plugin in self.plugins or () if hook in plugin.hooks]
        if hook is Hook.PREPARE_CONTEXT:
            plugins.sort(key=lambda plugin: -plugin.priority)
        return tuple(plugins)

    def tool(self, name: str) -> ToolSpec | None:
        return next((spec for spec in self.tools if spec.name == name), None)
