"""What a turn that switched frames leaves behind: the frame, and the turn that goes on with the task in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lash_tasks.domain.codec import JsonObject, canonical, encode, short_digest, to_json
from lash_tasks.domain.frames import (
    FrameSwitch,
    follow_up_turn_id,
    seed_nodes,
    shown_frame_id,
    task_batch_id,
)
from lash_tasks.domain.ids import NodeId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import TextPart
from lash_tasks.domain.queue import BatchDraft, Queued
from lash_tasks.domain.turns import FailureClass, ToolOutcome, TurnIntent, tool_failure
from lash_tasks.errors import ErrorCode
from lash_tasks.stores.protocols import FollowUp, FrameOpening, FrameStore, OpenedTurn


@dataclass(frozen=True, slots=True)
class Continuation:
    """What is committed with a turn that switched. `frame` is None where the run goes on in the frame it is in."""

    follow_up: FollowUp
    frame: FrameOpening | None


@dataclass(frozen=True, slots=True)
class End:
    """The end of a turn's messages, behind which a frame begins: how many there are, and the last node of the path."""

    messages: int
    leaf: NodeId | None


def continuation(
    frames: FrameStore, opened: OpenedTurn, switch: FrameSwitch | None, end: End, first_input: Queued
) -> Continuation | None:
    """How the turn's run goes on; None if it does not."""
    if switch is None:
        return None
    stays = switch.frame_id == shown_frame_id(opened.intent.session_id, opened.frame_id)
    frame = None if stays else opening(frames, opened, switch, end)
    return Continuation(_follow_up(opened.intent, switch, first_input), frame)


def opening(frames: FrameStore, opened: OpenedTurn, switch: FrameSwitch, end: End) -> FrameOpening:
    """The new frame, behind the messages of the turn. Its turns are given what those of the frame before were."""
    intent = opened.intent
    return FrameOpening(
        frame_id=switch.frame_id,
        previous_id=opened.frame_id,
        reason=switch.reason,
        assignment=canonical(_assignment(frames, intent, opened.frame_id)).decode(),
        caused_by=canonical({"turn_id": intent.turn_id}).decode(),
        nodes=seed_nodes(switch.seeds, switch.frame_id, intent.turn_index, end.messages, end.leaf),
    )


def refused_if_superseded(frames: FrameStore, opened: OpenedTurn, outcome: ToolOutcome) -> ToolOutcome:
    """The outcome of a tool call; a failure if it asks for a frame that was left before: none is opened again."""
    session_id = opened.intent.session_id
    wanted = None if outcome.control is None else outcome.control.frame_id
    if wanted in (None, shown_frame_id(session_id, opened.frame_id)) or frames.frame(session_id, wanted) is None:
        return outcome
    message = f"the frame {wanted!r} was left before and is not opened again; name a new one, or none"
    return replace(
        tool_failure(FailureClass.INVALID_REQUEST, ErrorCode.FRAME_SUPERSEDED, message), duration_ms=outcome.duration_ms
    )


def _assignment(frames: FrameStore, intent: TurnIntent, frame_id: str | None) -> JsonObject:
    before = frames.frame(intent.session_id, shown_frame_id(intent.session_id, frame_id))
    return {"agent": intent.agent} if before is None else before.assignment


def _follow_up(intent: TurnIntent, switch: FrameSwitch, first_input: Queued) -> FollowUp:
    """The same agent in the same version, with the context and model that the run began with; images stay behind."""
    turn_id = follow_up_turn_id(intent.turn_id)
    queued = QueuedInput(first_input.agent, (TextPart(switch.task),), first_input.context, first_input.model)
    batch = BatchDraft(
        id=task_batch_id(intent.session_id, turn_id),
        session_id=intent.session_id,
        agent=intent.agent,
        payload=encode(QueuedInput, queued),
        input_digest=short_digest(to_json(QueuedInput, queued)),
        context_digest=queued.context_digest(),
    )
    return FollowUp(turn_id=turn_id, batch=batch, agent_ref=intent.agent_ref, machine_version=intent.machine_version)
