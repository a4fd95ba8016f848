"""What a tool may return to steer its turn, instead of a result for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lash_tasks.domain.codec import canonical, scrub, to_json
from lash_tasks.domain.frames import CONTINUE_AS, FrameSwitch, Initial, derived_frame_id, frame_id_problem, read_seeds
from lash_tasks.domain.ids import name_problem
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import ToolOutcome
from lash_tasks.ports import ToolInvocation
from lash_tasks.tools.results import InvalidResult


@dataclass(frozen=True, slots=True)
class SwitchFrame:
    """Returned by a tool: end this turn here, and go on with `task` in a frame that sees nothing of what was said.

    The frame begins with `initial_messages`: texts of the user, mappings of `role` and `text`, or messages of the
    session. Without a `frame_id` the call gives one of its own. `reason` is a label for whoever reads the frames.
    The first call of a round that returns one wins; a value that cannot be used fails the call, and the model is told.
    """

    task: str
    frame_id: str | None = None
    initial_messages: Sequence[Initial] = ()
    reason: str = CONTINUE_AS


def switch_outcome(control: SwitchFrame, invocation: ToolInvocation, max_bytes: int) -> ToolOutcome:
    """The outcome to record for a call that returned `control`; raises InvalidResult, which names the field."""
    switch = _checked(control, invocation)
    size = len(canonical(to_json(FrameSwitch, switch)))
    if size > max_bytes:
        raise InvalidResult(
            f"tool {invocation.tool} returned a SwitchFrame of {size} bytes of JSON and may return at most {max_bytes}"
        )
    return ToolOutcome(ToolStatus.SUCCESS, {"switched_to": switch.frame_id}, control=switch)


def _checked(control: SwitchFrame, invocation: ToolInvocation) -> FrameSwitch:
    def refuse(field: str, problem: str) -> InvalidResult:
        return InvalidResult(f"tool {invocation.tool} returned a SwitchFrame whose {field} {problem}")

    if not isinstance(control.task, str) or not control.task.strip():
        raise refuse("task", "must be a text that is not blank")
    problem = name_problem(control.reason) if isinstance(control.reason, str) else "must be a text"
    if problem:
        raise refuse("reason", problem)
    frame_id = control.frame_id
    if frame_id is None:
        frame_id = derived_frame_id(invocation.session_id, invocation.idempotency_key)
    elif not isinstance(frame_id, str):
        raise refuse("frame_id", "must be a text, or None for one of its own")
    elif problem := frame_id_problem(invocation.session_id, frame_id):
        raise refuse("frame_id", problem)
    try:
        seeds = read_seeds(control.initial_messages)
    except ValueError as error:
        raise refuse("initial_messages", str(error)) from None
    task: str = scrub(control.task)
    return FrameSwitch(frame_id, task, seeds, control.reason)
