"""What the commit of a turn says, as far as its opening and its result say it."""

from __future__ import annotations

from lash_tasks.domain.codec import encode
from lash_tasks.domain.turns import AssembledTurn, IssueKind, StopKind, outcome_kind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.assembly import TurnResult
from lash_tasks.runtime.frame_runs import Continuation
from lash_tasks.stores.protocols import OpenedTurn, TurnCommit


def turn_commit(opened: OpenedTurn, result: TurnResult, onward: Continuation | None = None) -> TurnCommit:
    """What the turn leaves behind, as far as its result says it."""
    intent = opened.intent
    exhausted = _is_exhausted(result.turn)
    return TurnCommit(
        session_id=intent.session_id,
        turn_id=intent.turn_id,
        fence=opened.fence,
        turn_index=intent.turn_index,
        base_revision=intent.base_revision,
        # A turn that stopped before its journal did, or that cannot be read, still ends what it has claimed.
        batch_ids=tuple(dict.fromkeys((*result.batch_ids, *opened.claimed))),
        refuse_if_joinable=False,
        agent=intent.agent,
        context_digest="",
        nodes=result.nodes,
        usage=result.usage,
        stamp=result.stamp,
        outcome=outcome_kind(result.turn.outcome),
        result=encode(AssembledTurn, result.turn),
        dead_reason=ErrorCode.ATTEMPTS_EXHAUSTED.value if exhausted else None,
        frame=None if onward is None else onward.frame,
        follow_up=None if onward is None else onward.follow_up,
    )


def _is_exhausted(turn: AssembledTurn) -> bool:
    """Whether its attempts have ended the turn. Codes of plugins and model servers are theirs to choose."""
    return turn.outcome == stopped(StopKind.RUNTIME_ERROR) and any(
        issue.kind is IssueKind.RUNTIME and issue.code == ErrorCode.ATTEMPTS_EXHAUSTED for issue in turn.errors
    )
