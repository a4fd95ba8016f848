"""What an agent's compactors say is what a compacted session goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import Agent
from lash_tasks.domain.frames import Seed
from lash_tasks.domain.ids import CallId, MessageId, SessionId
from lash_tasks.domain.messages import Message, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.compaction import CompactionContext

MESSAGES = (
    Message(MessageId("m1.0"), Role.USER, (TextPart("one"),)),
    Message(MessageId("m1.1"), Role.ASSISTANT, (ToolCallPart(CallId("a"), "lookup", "{}"),)),
    Message(MessageId("m1.2"), Role.USER, (ToolResultPart(CallId("a"), "lookup", "ok"),)),
    Message(MessageId("m1.3"), Role.ASSISTANT, (TextPart("done"),)),
    Message(MessageId("m2.0"), Role.USER, (TextPart("two"),)),
    Message(MessageId("m2.1"), Role.ASSISTANT, (TextPart("fine"),)),
)
CONTEXT = CompactionContext(session_id=SessionId("s1"), agent="support", frame_id="plan", messages=MESSAGES)


def agent(**fields: Any) -> Agent:
    return Agent("support", "scripted:x", **fields)


def seeds(*texts: str) -> tuple[Seed, ...]:
    return tuple(Seed(Role.USER, (TextPart(text),)) for text in texts)


def test_the_first_compactor_that_has_something_to_say_wins() -> None:
    asked: list[str] = []

    def says(*said: str) -> Any:
        def compactor(context: CompactionContext) -> list[str] | None:
            asked.append(context.frame_id)
            return list(said) or None

        return compactor

    wanted = agent(compact=[lambda context: [], says(), says("so far: one"), says("never asked")])

    assert wanted.compacted(CONTEXT) == seeds("so far: one")
    assert asked == ["plan", "plan"]


def test_one_function_is_a_list_of_one() -> None:
    assert agent(compact=lambda context: ["so far"]).compacted(CONTEXT) == seeds("so far")
    assert agent().compacted(CONTEXT) == ()


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 0), (2, 2), (5, 2), (6, 6), (60, 6)])
def test_the_last_messages_begin_where_the_user_speaks(count: int, kept: int) -> None:
    assert CONTEXT.last(count) == MESSAGES[len(MESSAGES) - kept :]


def test_what_no_frame_can_begin_with_names_the_compactor() -> None:
    def torn(context: CompactionContext) -> list[Message]:
        return [context.messages[1]]

    with pytest.raises(ValueError, match=r"the result of compactor .*torn holds the tool call 'a' without its result"):
        agent(compact=torn).compacted(CONTEXT)


async def later(context: CompactionContext) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"compact": "summarise"}, "compact must be a function or a list of functions, not 'summarise'"),
        ({"compact": 7}, "compact must be a function or a list of functions, not 7"),
        ({"compact": ["summarise"]}, "compact needs plain functions of a CompactionContext, not 'summarise'"),
        ({"compact": later}, "compact needs plain functions of a CompactionContext, not <function later"),
        ({"compact_above_tokens": 100}, "compact_above_tokens needs compact=, which says how"),
        (
            {"compact": len, "compact_above_tokens": 0},
            "compact_above_tokens must be a whole number of at least 1, not 0",
        ),
        ({"compact": len, "compact_above_tokens": True}, "compact_above_tokens must be a whole number of at least 1"),
    ],
)
def test_what_is_no_compactor_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        agent(**fields)
    assert problem in str(refused.value)
