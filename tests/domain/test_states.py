"""States and their allowed transitions. Code, CHECK constraints and diagrams read the same tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import pytest

from lash_tasks.domain.queue import BATCH_TRANSITIONS, BatchState
from lash_tasks.domain.turns import TURN_TRANSITIONS, TurnStatus

State = TypeVar("State", bound=StrEnum)


def table(first: State, transitions: Mapping[State, frozenset[State]], *ends: State) -> Table:
    return Table(type(first), {state: set(targets) for state, targets in transitions.items()}, first, set(ends))


@dataclass(frozen=True)
class Table:
    states: type[StrEnum]
    transitions: Mapping[StrEnum, set[StrEnum]]
    first: StrEnum
    ends: set[StrEnum]


TABLES = [
    table(BatchState.READY, BATCH_TRANSITIONS, BatchState.CONSUMED, BatchState.CANCELLED, BatchState.DEAD),
    table(TurnStatus.RUNNING, TURN_TRANSITIONS, TurnStatus.COMMITTED),
]
each = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.states.__name__)


@each
def test_terminal_states_are_final(table: Table) -> None:
    assert {state for state in table.states if not table.transitions[state]} == table.ends


@each
def test_every_state_is_in_the_table_and_can_be_reached(table: Table) -> None:
    assert set(table.transitions) == set(table.states)
    assert {table.first} | after(table, table.first) == set(table.states)


@each
def test_every_state_can_come_to_an_end_and_none_comes_back(table: Table) -> None:
    for state in table.states:
        assert state not in after(table, state)
        assert state in table.ends or after(table, state) & table.ends


def after(table: Table, state: StrEnum) -> set[StrEnum]:
    """The states that `state` may lead to, over any number of transitions."""
    reached, new = set[StrEnum](), set(table.transitions[state])
    while new:
        reached |= new
        new = {target for found in new for target in table.transitions[found]} - reached
    return reached


def test_a_claim_is_never_given_back() -> None:
    assert BatchState.READY not in BATCH_TRANSITIONS[BatchState.CLAIMED]
    assert BatchState.CANCELLED not in BATCH_TRANSITIONS[BatchState.CLAIMED]
