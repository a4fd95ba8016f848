"""The journal: what a turn asked of the world and what came back, written once under a replay key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lash_tasks.domain.codec import JsonObject, canonical, difference, parse
from lash_tasks.domain.ids import ReplayKey, SessionId, TurnId


class EffectKind(StrEnum):
    """Kinds of effects, by their names in effects §4.2."""

    LLM_CALL = "llm_call"
    TOOL_BATCH = "tool_batch"
    TOOL_ATTEMPT = "tool_attempt"
    CHECKPOINT = "checkpoint"
    SYNC_EXECUTION_ENVIRONMENT = "sync_execution_environment"
    OUTPUT_CHECK = "output_check"
    """Ours: whether an answer fits the agent's output type, which only the application's code can say."""
    CONTEXT_TRANSFORM = "context_transform"
    """Ours, as the three below: all hooks of one phase of the turn."""
    BEFORE_TURN_HOOKS = "before_turn_hooks"
    CHECKPOINT_HOOKS = "checkpoint_hooks"
    AFTER_TURN_HOOKS = "after_turn_hooks"
    COMPACTION = "compaction"
    """Ours: what the agent's compactors make of a session."""


class EffectState(StrEnum):
    BEGUN = "begun"
    """A `never` tool is about to be called; committed before the call."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The request of an effect, small and comparable: what must match when the effect is replayed."""

    kind: EffectKind
    request: JsonObject

    def to_bytes(self) -> bytes:
        return canonical({"kind": self.kind.value, "request": self.request})

    def mismatch(self, recorded: bytes) -> list[str]:
        """Where a recorded envelope differs from this one, one line a place; empty when they agree."""
        wanted = self.to_bytes()
        return [] if recorded == wanted else difference(parse(recorded), parse(wanted)) or ["$: encoding differs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """One effect on its way into the journal, with the fence of the turn that made it."""

    session_id: SessionId
    turn_id: TurnId
    replay_key: ReplayKey
    ordinal: int
    fence: int
    state: EffectState
    envelope: bytes
    outcome: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEffect:
    """One effect as the journal holds it."""

    replay_key: ReplayKey
    ordinal: int
    fence: int
    state: EffectState
    envelope: bytes
    outcome: bytes | None


class RecordVerdict(StrEnum):
    RECORDED = "recorded"
    EXISTS = "exists"
    """Another record came first and stands; the row was not changed."""
    FENCED = "fenced"
    REFUSED = "refused"
    """The database cannot hold a value of the row, now or later; the rows beside it are not touched by that."""
    LOCKED = "locked"
    """Of several rows: somebody holds the session's fence at the moment, so nothing was written; try it alone."""


@dataclass(frozen=True, slots=True)
class RecordReply:
    """The verdict on one journal row, and what the database saw beside it."""

    verdict: RecordVerdict
    cancel: bool = False
    """A cancel of this turn waits."""
    joinable: bool = False
    """An input waits that may enter the running turn at a checkpoint."""
