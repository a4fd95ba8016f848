"""The double-text rules in SQL: every backend takes what the model takes, and each rule holds as a law of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.queue import LONGEST_QUIET, When, arrival
from lash_tasks.errors import SessionBusy
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE, MACHINE_VERSION, Scene, journal_row
from tests.conformance.inputs import draft, serve
from tests.conformance.queue_model import QueueModel, Sent

AGENTS = {"support": "ref-1", "sales": "ref-2"}
_sessions = count(1)

# ---------------------------------------------------------------- what can happen


@dataclass(frozen=True)
class Send:
    when: When
    agent: str
    context: str
    merge_key: str
    quiet_ms: int | None
    delay_ms: int


@dataclass(frozen=True)
class Pass:
    """Time passes."""

    milliseconds: int


Happening = Send | Pass | str
sends = st.builds(
    Send,
    st.sampled_from([*When, When.STEER]),
    st.sampled_from([*AGENTS, "support", "support"]),
    st.sampled_from(["", "", "", "c"]),
    st.sampled_from(["m", "m", "n"]),
    st.sampled_from([None, 100, 300]),
    st.sampled_from([0, 0, 0, 0, 50]),
)
happenings = st.lists(
    sends
    | sends
    | st.builds(Pass, st.sampled_from([1, 49, 100, 301, 3000]))
    | st.sampled_from(["open", "checkpoint", "commit", "cancel"])
    | st.sampled_from(["open", "steer", "open", "steer"]),
    max_size=25,
)
on_every_backend = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass
class Session:
    """One session in SQL beside its model, and all that became of its inputs."""

    scene: Scene
    queue: SqlInputQueue
    work: SqlWorkStore
    id: SessionId = field(default_factory=lambda: SessionId(f"session-{next(_sessions)}"))
    model: QueueModel = field(default_factory=QueueModel)
    opened: OpenedTurn | None = None
    claimed: tuple[BatchId, ...] = ()
    sent: dict[BatchId, Sent] = field(default_factory=dict)
    turns: list[tuple[int, list[Sent]]] = field(default_factory=list)
    """When each turn was opened, and with what."""
    passed_over: list[list[Sent]] = field(default_factory=list)
    """What was there at each opening and not taken."""
    left_at_checkpoints: list[tuple[int, Sent, list[Sent]]] = field(default_factory=list)
    """When each was, the first input of its turn, and what was there after it."""
    refused: list[tuple[BatchId, set[str]]] = field(default_factory=list)
    """The rejects that were, and the states in SQL of what there was then."""
    let_in: list[set[str]] = field(default_factory=list)
    """The same of the rejects that got in."""

    @property
    def now_ms(self) -> int:
        return self.scene.clock.now_ms()

    def happen(self, what: Happening) -> None:
        match what:
            case Send():
                self._send(what)
            case Pass(milliseconds):
                self.scene.clock.advance(milliseconds / 1000)
            case "open" if self.opened is None:
                self._open()
            case "checkpoint" if self.opened is not None:
                self._checkpoint(self.opened)
            case "steer" if self.opened is not None:
                running = self.model.running[0]
                self._send(Send(When.STEER, running.agent, running.context, "", None, 0))
                self._checkpoint(self.opened)
            case "commit" if self.opened is not None:
                self._commit(self.opened)
            case "cancel" if self.model.waiting:
                last = self.model.waiting[-1]
                assert self.queue.cancel(self.id, last.id) is not None
                self.model.cancel(last)

    def _send(self, what: Send) -> None:
        rule = arrival(what.when, what.merge_key)
        quiet_ms = what.quiet_ms if what.when is When.MERGE else None
        delay_ms = 0 if quiet_ms or what.when is When.INTERRUPT else what.delay_ms
        new = draft(
            self.id,
            agent=what.agent,
            context_digest=what.context,
            early=rule.early,
            exclusive=rule.exclusive,
            merge_key=rule.merge_key,
            urgent=rule.urgent,
            quiet_ms=quiet_ms,
            available_at_ms=self.now_ms + delay_ms,
        )
        reject, busy = what.when is When.REJECT, self.model.busy
        states = set(self.states().values()) if reject else set()
        if reject and busy:
            with pytest.raises(SessionBusy):
                self.queue.enqueue(new, reject_if_busy=True)
            self.refused.append((new.id, states))
            return
        if reject:
            self.let_in.append(states)
        assert self.queue.enqueue(new, reject_if_busy=reject).created
        sent = Sent(
            id=new.id,
            number=len(self.sent),
            when=what.when,
            agent=what.agent,
            context=what.context,
            sent_ms=self.now_ms,
            available_ms=self.now_ms + delay_ms,
            merge_key=rule.merge_key,
            quiet_ms=quiet_ms,
        )
        self.sent[new.id] = sent
        self.model.send(sent)

    def states(self) -> dict[BatchId, str]:
        """What became of its inputs, in SQL."""
        query = select(tables.batches.c.id, tables.batches.c.state).where(tables.batches.c.session_id == self.id)
        with self.scene.database.reading() as connection:
            return {BatchId(row.id): row.state for row in connection.execute(query)}

    def _open(self) -> None:
        opened = self.scene.try_open(session_id=self.id, agents=AGENTS)
        run = self.model.open(self.now_ms)
        if isinstance(opened, NotOpened):
            assert (opened, run) == (NotOpened.NOTHING, [])
            return
        assert [batch.id for batch in opened.batches] == [one.id for one in run]
        assert not opened.cancel
        self.opened, self.claimed = opened, opened.intent.batch_ids
        self.turns.append((self.now_ms, list(run)))
        self.passed_over.append(list(self.model.waiting))

    def _checkpoint(self, opened: OpenedTurn) -> None:
        taken = self.scene.checkpoint(
            opened, key=f"checkpoint-{len(self.claimed)}-{self.now_ms}", context_digest=self.model.running[0].context
        )
        joined = self.model.checkpoint(self.now_ms)
        if isinstance(taken, CheckpointTaken):
            assert [batch.id for batch in taken.batches] == [one.id for one in joined]
            self.claimed += tuple(batch.id for batch in taken.batches)
            self.turns[-1][1].extend(joined)
        else:
            assert (taken, joined) == (CheckpointRefused.EMPTY, [])
        self.left_at_checkpoints.append((self.now_ms, self.model.running[0], list(self.model.waiting)))

    def _commit(self, opened: OpenedTurn) -> None:
        joinable = bool(self.model.joinable(self.now_ms))
        values = {"batch_ids": self.claimed, "context_digest": self.model.running[0].context}
        committed = self.scene.commit(opened, refuse_if_joinable=True, **values)
        if joinable:
            assert committed is CommitRefused.JOINABLE
            committed = self.scene.commit(opened, **values)
        assert isinstance(committed, Committed)
        assert committed.more == bool(self.model.next_run(self.now_ms))
        self.model.commit()
        self.opened = None

    def compare(self) -> None:
        """What the stores say without changing anything is what the model would do."""
        next_run = self.model.next_run(self.now_ms)
        if self.opened is None:
            request = OpenRequest(session_id=self.id, worker=ALICE, agents=AGENTS, machine_version=MACHINE_VERSION)
            assert (self.work.runnable(request) is not None) == bool(next_run)
        else:
            [reply] = self.scene.store.record([journal_row(self.opened, f"look-{self.now_ms}-{len(self.sent)}")])
            assert reply.cancel == self.model.cancelled
            assert reply.joinable == (bool(next_run) and next_run[0].when is When.STEER)
        waiting = [batch.id for batch in self.queue.waiting(self.id)]
        assert waiting[: len(self.claimed if self.opened else ())] == list(self.claimed if self.opened else ())
        assert set(waiting) == {one.id for one in (*self.model.running, *self.model.waiting)}
        if next_run and self.opened is None:
            assert waiting[: len(next_run)] == [one.id for one in next_run]
        listed = {one.session_id for one in self.work.ready(list(AGENTS))}
        assert (self.id in listed) == (self.opened is None and bool(next_run))

    def run_dry(self) -> None:
        """Let everything that waits run, with time passing."""
        for _ in range(200):
            if self.opened is not None:
                self._commit(self.opened)
            elif not self.model.waiting:
                return
            else:
                self.scene.clock.advance(1)
                self._open()
        raise AssertionError("something waits for ever")


@pytest.fixture
def new_session(scene: Scene) -> Callable[[], Session]:
    serve(scene.database, *AGENTS)
    queue, work = SqlInputQueue(scene.database), SqlWorkStore(scene.database)
    return lambda: Session(scene, queue, work)


@given(happenings)
@on_every_backend
def test_sql_takes_what_the_model_takes_and_every_rule_holds(
    new_session: Callable[[], Session], what: list[Happening]
) -> None:
    session = new_session()
    for one in what:
        session.happen(one)
        session.compare()
    session.run_dry()
    turns = [inputs for _, inputs in session.turns]
    for law in LAWS:
        law(session, turns)


# ---------------------------------------------------------------- the laws


def taken_once(session: Session, turns: list[list[Sent]]) -> None:
    """Every input that was not cancelled is in exactly one turn, and no turn was opened for nothing."""
    taken = [one.id for inputs in turns for one in inputs]
    assert len(taken) == len(set(taken))
    left = session.states()
    assert set(taken) == {id_ for id_, state in left.items() if state == "consumed"}
    assert set(left) - set(taken) == {id_ for id_, state in left.items() if state == "cancelled"}


def none_share_across_contexts_and_agents(_: Session, turns: list[list[Sent]]) -> None:
    for inputs in turns:
        assert len({(one.agent, one.context) for one in inputs}) == 1


def queued_input_runs_alone_and_in_order(_: Session, turns: list[list[Sent]]) -> None:
    alone = {When.QUEUE, When.REJECT, When.INTERRUPT}
    for inputs in turns:
        assert len([one for one in inputs if one.when in alone]) <= 1
        assert inputs[0].when in alone or all(one.when not in alone for one in inputs)
    queued = [
        inputs[0] for inputs in turns if inputs[0].when is When.QUEUE and inputs[0].available_ms == inputs[0].sent_ms
    ]
    assert all(one.number < next_.number for one, next_ in pairwise(queued))


def input_that_merges_has_one_key_and_was_quiet(session: Session, _: list[list[Sent]]) -> None:
    for opened_ms, inputs in session.turns:
        if inputs[0].when is not When.MERGE:
            assert all(one.when is When.STEER for one in inputs[1:])
            continue
        merged = [one for one in inputs if one.when is When.MERGE]
        assert len({one.merge_key for one in merged}) == 1
        quiet = [one for one in merged if one.quiet_ms is not None]
        if quiet:
            first, last = quiet[0], quiet[-1]
            was_quiet = last.sent_ms + (last.quiet_ms or 0) <= opened_ms
            assert was_quiet or first.sent_ms + LONGEST_QUIET * (first.quiet_ms or 0) <= opened_ms


def an_interruption_goes_before_all_that_is_none(session: Session, _: list[list[Sent]]) -> None:
    for (_opened_ms, inputs), others in zip(session.turns, session.passed_over, strict=True):
        assert inputs[0].urgent or not any(one.urgent for one in others)


def an_interruption_stops_the_turn_that_ran_and_no_other(session: Session, _: list[list[Sent]]) -> None:
    stopped = {row["turn_id"] for row in session.scene.rows(tables.turn_cancels) if row["session_id"] == session.id}
    assert stopped == set()  # each went with its turn, and `compare` has seen them there


def a_steer_joins_the_turn_that_runs_in_its_order(session: Session, turns: list[list[Sent]]) -> None:
    for now_ms, running, left in session.left_at_checkpoints:
        line = sorted((one for one in left if one.available_ms <= now_ms), key=lambda one: one.place)
        if line and line[0].when is When.STEER:
            assert (line[0].agent, line[0].context) != (running.agent, running.context)
    taken = [one for inputs in turns for one in inputs]
    steers = [one for one in taken if one.when is When.STEER and one.available_ms == one.sent_ms]
    assert all(one.number < next_.number for one, next_ in pairwise(steers))


def a_reject_got_in_where_all_was_over_and_left_nothing_elsewhere(session: Session, _: list[list[Sent]]) -> None:
    over = {"consumed", "cancelled"}
    assert all(states <= over for states in session.let_in)
    assert not any(states <= over for _, states in session.refused)
    assert session.states().keys().isdisjoint(id_ for id_, _ in session.refused)


LAWS = (
    taken_once,
    none_share_across_contexts_and_agents,
    queued_input_runs_alone_and_in_order,
    input_that_merges_has_one_key_and_was_quiet,
    an_interruption_goes_before_all_that_is_none,
    an_interruption_stops_the_turn_that_ran_and_no_other,
    a_steer_joins_the_turn_that_runs_in_its_order,
    a_reject_got_in_where_all_was_over_and_left_nothing_elsewhere,
)
