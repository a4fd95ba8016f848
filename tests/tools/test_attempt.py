"""A call in flight ends once: it is finished or given up, and what comes second changes nothing."""

from __future__ import annotations

from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import ToolOutcome
from lash_tasks.tools.attempt import Attempt

DONE = ToolOutcome(ToolStatus.SUCCESS, "done")


def test_an_outcome_stands() -> None:
    attempt = Attempt[ToolOutcome]()
    assert attempt.begin()
    attempt.finish(DONE)
    assert attempt.changed.is_set()
    assert attempt.settle() is DONE
    assert attempt.settle() is DONE
    assert not attempt.given_up.is_set()


def test_giving_up_stands() -> None:
    attempt = Attempt[ToolOutcome]()
    assert attempt.settle() is None
    attempt.finish(DONE)
    assert attempt.settle() is None
    assert not attempt.begin()
    assert not attempt.begun


def test_giving_up_is_told_once_whenever_somebody_asks() -> None:
    attempt = Attempt[ToolOutcome]()
    told: list[str] = []
    attempt.on_give_up(lambda: told.append("asked before"))
    assert told == []
    attempt.settle()
    attempt.settle()
    attempt.on_give_up(lambda: told.append("asked after"))
    assert told == ["asked before", "asked after"]
