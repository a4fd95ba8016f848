"""What is None is left out of the stored form, and comes back as None."""

from __future__ import annotations

import pytest

from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.queue import JoinedInput


@pytest.mark.parametrize(
    "value",
    [
        AgentSnapshot("support", "scripted:x", instructions=None),
        JoinedInput(BatchId("b1"), None, QueuedInput("support", ())),
        TurnActivity(SessionId("s1"), None, 0, 0, 1, ActivityType.QUEUE_CHANGED, {"nothing": None}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_none_without_a_default_survives_storing(value: object) -> None:
    assert decode(type(value), encode(type(value), value)) == value
