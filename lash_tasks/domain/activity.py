"""Live events: what observers see while a turn runs. Best effort; committed text never comes from here (design §8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from lash_tasks.domain.codec import OMITTED, JsonObject
from lash_tasks.domain.ids import SessionId, TurnId


class ActivityType(StrEnum):
    """Types of live events, by their names in effects §19 and §20."""

    TURN_STARTED = "turn_started"
    MODEL_REQUEST_STARTED = "model_request_started"
    ASSISTANT_PROSE_DELTA = "assistant_prose_delta"
    REASONING_DELTA = "reasoning_delta"
    STREAM_RESET = "stream_reset"
    """The model call is retried: text of this call seen so far does not count."""
    PROVIDER_LIMIT_REACHED = "provider_limit_reached"
    """The model call waits until the limits of its provider let it through."""
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    RETRY_STATUS = "retry_status"
    USAGE = "usage"
    SESSION_CONFIG_CHANGED = "session_config_changed"
    """What the session says over its agent's policy is another now; the data has the previous and the current one."""
    PLUGIN_STATUS = "plugin_status"
    QUEUED_MESSAGES_COMMITTED = "queued_messages_committed"
    """Plugins have put messages into the running turn at a checkpoint."""
    COMMITTED = "committed"
    QUEUE_CHANGED = "queue_changed"
    """Input (`batch_ids`) was `enqueued` or `cancelled` (`kind`). An invalidation: SQL knows what waits."""
    QUEUED_WORK_STARTED = "queued_work_started"
    """A turn has taken `batch_ids` from the queue, at which `boundary`."""
    QUEUED_INPUT_ACCEPTED = "queued_input_accepted"
    """Input has joined the running turn at `checkpoint`; `inputs` has the key, the id and the text of each."""


class Boundary(StrEnum):
    """Where a turn takes from the queue."""

    IDLE = "idle"
    CHECKPOINT = "active_turn_checkpoint"


@dataclass(frozen=True, slots=True)
class TurnActivity:
    """One live event. `fence` orders takers of a turn: a follower drops events of a lower fence than it has seen."""

    session_id: SessionId
    turn_id: Annotated[TurnId | None, OMITTED]
    fence: int
    attempt: int
    ordinal: int
    type: ActivityType
    data: JsonObject
