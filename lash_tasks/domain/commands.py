"""Commands to a session: what they say, how they are read, and how they wait in the queue.

A command changes the session itself. It has its place among the session's input, and a turn of its own that asks no
model. To add one: a class, its kind, and its reader in `_READERS`; what it does stands in `runtime/commander.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lash_tasks.domain.codec import JsonObject, JsonValue, canonical, parse, scrub, short_digest
from lash_tasks.domain.frames import Seed, read_seeds
from lash_tasks.domain.ids import NodeId, name_problem
from lash_tasks.domain.policies import SessionSpec, read_spec, shown_name
from lash_tasks.errors import InvalidInput

MAX_REASON = 1000


class CommandKind(StrEnum):
    REFRESH_TOOL_CATALOG = "refresh_tool_catalog"
    RESET_SESSION = "reset_session"
    CONFIGURE_SESSION = "configure_session"
    BRANCH_TO_NODE = "branch_to_node"
    APPEND_SESSION_NODES = "append_session_nodes"
    COMPACT_SESSION = "compact_session"


@dataclass(frozen=True, slots=True)
class RefreshToolCatalog:
    """Look again at which tools the session has."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ResetSession:
    """Show nothing from now on; what the session says over its agent's policy stays, and so does its usage."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ConfigureSession:
    """Lay `spec` over what the session says by now."""

    spec: SessionSpec


@dataclass(frozen=True, slots=True)
class BranchToNode:
    """Go on from another node; with None from none."""

    node_id: NodeId | None


@dataclass(frozen=True, slots=True)
class AppendSessionNodes:
    """Add messages behind the leaf, provided that an ancestor is on the active path."""

    messages: tuple[Seed, ...]
    requires_ancestor_node_id: NodeId | None = None


@dataclass(frozen=True, slots=True)
class CompactSession:
    """Go on in a frame that begins with what the agent's compactors make of what was said."""

    reason: str | None = None


SessionCommand = (
    RefreshToolCatalog | ResetSession | ConfigureSession | BranchToNode | AppendSessionNodes | CompactSession
)


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """A command as the queue stores it; `arguments` as they were given."""

    agent: str
    kind: CommandKind
    arguments: JsonObject

    def command(self) -> SessionCommand:
        return read_command(self.kind, self.arguments)


def command_source_key(kind: CommandKind, idempotency_key: str) -> str:
    """The key of a command's batch. A command of another kind may have the same key."""
    return f"command:{kind.value}:{idempotency_key}"


def command_digest(kind: CommandKind, arguments: JsonObject) -> str:
    """What tells a command that is sent again from another one under the same key."""
    return short_digest({"command": kind.value, "arguments": arguments})


def plain_arguments(arguments: Mapping[str, JsonValue]) -> JsonObject:
    """The arguments as they are stored; InvalidInput if JSON cannot carry them."""
    try:
        plain: JsonObject = parse(canonical(scrub(dict(arguments))))
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("arguments", "must be JSON: objects, arrays, strings, finite numbers, booleans") from None
    return plain


# ---------------------------------------------------------------- reading


def read_command(kind: CommandKind, arguments: Mapping[str, JsonValue]) -> SessionCommand:
    """The command of this kind with these arguments; InvalidInput names the first argument that is wrong."""
    known, read = _READERS[kind]
    for name in arguments:
        if name not in known:
            raise InvalidInput(f"arguments.{shown_name(name)}", "is not a known field")
    return read(arguments)


def _refresh(arguments: Mapping[str, JsonValue]) -> RefreshToolCatalog:
    return RefreshToolCatalog(_reason(arguments))


def _reset(arguments: Mapping[str, JsonValue]) -> ResetSession:
    return ResetSession(_reason(arguments))


def _configure(arguments: Mapping[str, JsonValue]) -> ConfigureSession:
    spec = arguments.get("spec")
    if not isinstance(spec, dict):
        raise InvalidInput("arguments.spec", "must be an object of what the session says")
    return ConfigureSession(read_spec(spec, "arguments.spec"))


def _branch(arguments: Mapping[str, JsonValue]) -> BranchToNode:
    if "node_id" not in arguments:
        raise InvalidInput("arguments.node_id", "is required; null begins with nothing")
    return BranchToNode(_node_id(arguments, "node_id"))


def _append(arguments: Mapping[str, JsonValue]) -> AppendSessionNodes:
    try:
        messages = read_seeds(arguments.get("nodes"))
    except ValueError as error:
        raise InvalidInput("arguments.nodes", str(error)) from None
    if not messages:
        raise InvalidInput("arguments.nodes", "must not be empty")
    return AppendSessionNodes(messages, _node_id(arguments, "requires_ancestor_node_id"))


def _compact(arguments: Mapping[str, JsonValue]) -> CompactSession:
    return CompactSession(_reason(arguments))


def _reason(arguments: Mapping[str, JsonValue]) -> str | None:
    reason = arguments.get("reason")
    if reason is None:
        return None
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise InvalidInput("arguments.reason", f"must be a text of at most {MAX_REASON} characters")
    scrubbed: str = scrub(reason)
    return scrubbed


def _node_id(arguments: Mapping[str, JsonValue], name: str) -> NodeId | None:
    value = arguments.get(name)
    if value is None:
        return None
    problem = name_problem(value) if isinstance(value, str) else "must be a string or null"
    if problem is not None:
        raise InvalidInput(f"arguments.{name}", problem)
    return NodeId(value)


_READERS: Mapping[CommandKind, tuple[frozenset[str], Callable[[Mapping[str, JsonValue]], SessionCommand]]] = {
    CommandKind.REFRESH_TOOL_CATALOG: (frozenset({"reason"}), _refresh),
    CommandKind.RESET_SESSION: (frozenset({"reason"}), _reset),
    CommandKind.CONFIGURE_SESSION: (frozenset({"spec"}), _configure),
    CommandKind.BRANCH_TO_NODE: (frozenset({"node_id"}), _branch),
    CommandKind.APPEND_SESSION_NODES: (frozenset({"nodes", "requires_ancestor_node_id"}), _append),
    CommandKind.COMPACT_SESSION: (frozenset({"reason"}), _compact),
}
