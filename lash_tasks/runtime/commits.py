"""What the commit of a turn says, as far as its opening and its result say it."""

from __future__ import annotations

from lash_tasks.domain.codec import encode
from lash_tasks.domain.turns import AssembledTurn, outcome_kind
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.assembly import TurnResult
from lash_tasks.runtime.frame_runs import Continuation
from lash_tasks.stores.protocols import OpenedTurn, TurnCommit


def turn_commit(opened: OpenedTurn, result: TurnResult, onward: Continuation | None = None) -> TurnCommit:
    """What the turn leaves behind, as far as its result says it."""
    intent = opened.intent
    exhausted = any(issue.code == ErrorCode.ATTEMPTS_EXHAUSTED for issue in result.turn.errors)
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
