"""A session in SQL beside a model of it: every verb as a rule, every answer and every row compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import select

from lash_tasks.domain.codec import digest
from lash_tasks.domain.ids import BatchId, SessionId, WorkerId, effect_scope, fence_scope
from lash_tasks.domain.journal import EffectState, RecordVerdict
from lash_tasks.domain.queue import BatchState, When, arrival
from lash_tasks.errors import IdempotencyConflict, SessionBusy, SessionDeleted
from lash_tasks.stores.protocols import (
    CheckpointTaken,
    Committed,
    NotOpened,
    OpenedTurn,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import WORKER_TTL_MS, Scene, journal_row, node
from tests.conformance.inputs import draft
from tests.conformance.queue_model import Sent
from tests.conformance.session_model import SessionModel, TurnModel, when_sent_again

AGENTS = {"support": "ref-1", "sales": "ref-2"}
SENDINGS = st.sampled_from([*When, When.QUEUE, When.STEER, When.STEER, When.MERGE])
_histories = count(1)
_numbers = count(1)


@dataclass
class Hold:
    """What a worker has in its hands: an opened turn, which may be another's by now, and what it claimed in it."""

    session: SessionModel
    opened: OpenedTurn
    claimed: list[BatchId]
    nodes: int = field(default_factory=lambda: next(_numbers))


class Sessions(RuleBasedStateMachine):
    """Two sessions and three workers. Every answer and every row is compared with the model's."""

    database: ClassVar[Database]
    scene: ClassVar[Scene]
    met: ClassVar[Counter[object]]
    """The answers there were, to see that the histories led everywhere."""

    def __init__(self) -> None:
        super().__init__()
        history = next(_histories)
        self.store, self.clock = self.scene.store, self.scene.clock
        self.queue, self.ends = SqlInputQueue(self.database), SqlSessionStore(self.database)
        self.sessions = [SessionModel(SessionId(f"history-{history}-{name}")) for name in ("a", "b")]
        self.workers = [WorkerId(f"worker-{history}-{name}") for name in ("x", "y", "z")]
        self.seen_ms: dict[str, int] = {}
        self.holds: list[Hold] = []
        self.fences: dict[SessionId, list[int]] = {session.id: [0] for session in self.sessions}

    def now_ms(self) -> int:
        return self.clock.now_ms()

    # ------------------------------------------------------------ senders

    @rule(
        one=st.sampled_from([0, 0, 1]),
        when=SENDINGS,
        agent=st.sampled_from(["support", "support", "support", "sales"]),
        context=st.sampled_from(["", "", "", "c"]),
        quiet_ms=st.sampled_from([None, None, 200]),
        delay_ms=st.sampled_from([0, 0, 0, 100]),
        key=st.sampled_from([None, None, None, "k1", "k2"]),
        merge_key=st.sampled_from(["m", "m", "m", "n"]),
    )
    def send(
        self,
        one: int,
        when: When,
        agent: str,
        context: str,
        quiet_ms: int | None,
        delay_ms: int,
        key: str | None,
        merge_key: str = "m",
    ) -> None:
        session, number = self.sessions[one], next(_numbers)
        quiet_ms = quiet_ms if when is When.MERGE else None
        delay_ms = 0 if quiet_ms is not None else delay_ms
        words = f"{when}{agent}{context}"
        rules = arrival(when, merge_key if when is When.MERGE else None)
        given = draft(
            session.id,
            words,
            id=BatchId(f"batch-{number:08}"),
            agent=agent,
            context_digest=digest(context or None),
            source_key=key,
            early=rules.early,
            exclusive=rules.exclusive,
            merge_key=rules.merge_key,
            urgent=rules.urgent,
            quiet_ms=quiet_ms,
            available_at_ms=self.now_ms() + delay_ms,
        )
        sent = Sent(
            id=given.id,
            number=number,
            when=when,
            agent=agent,
            context=context,
            sent_ms=self.now_ms(),
            available_ms=self.now_ms() + delay_ms,
            merge_key=rules.merge_key,
            quiet_ms=quiet_ms,
        )
        reject = when is When.REJECT
        if session.deleted:
            with pytest.raises(SessionDeleted):
                self.queue.enqueue(given, reject_if_busy=reject)
            self.met[SessionDeleted] += 1
        elif key in session.keys:
            first = session.sent[session.keys[key]]
            if f"{first.when}{first.agent}{first.context}" != words:
                with pytest.raises(IdempotencyConflict):
                    self.queue.enqueue(given, reject_if_busy=reject)
                self.met[IdempotencyConflict] += 1
            else:
                answer = self.queue.enqueue(given, reject_if_busy=reject)
                assert (answer.id, answer.created) == (first.id, False)
                self.met["same key"] += 1
        elif reject and session.busy:
            with pytest.raises(SessionBusy):
                self.queue.enqueue(given, reject_if_busy=True)
            self.met[SessionBusy] += 1
        else:
            assert self.queue.enqueue(given, reject_if_busy=reject).created
            session.send(sent, key)

    @rule(one=st.integers(0, 1), which=st.integers(0, 50))
    def cancel_input(self, one: int, which: int) -> None:
        session = self.sessions[one]
        names = [*session.batches, BatchId("unknown")]
        batch_id = names[which % len(names)]
        wanted = session.cancel(batch_id)
        answer = self.queue.cancel(session.id, batch_id)
        assert wanted == (None if answer is None else (answer.verdict, answer.turn_id))
        self.met[answer and answer.verdict] += 1

    @precondition(lambda self: any(session.dead for session in self.sessions))
    @rule(which=st.integers(0, 50))
    def replay_dead_letter(self, which: int) -> None:
        dead = [(session, batch_id) for session in self.sessions for batch_id in sorted(session.dead)]
        session, batch_id = dead[which % len(dead)]
        number = next(_numbers)
        new_id = BatchId(f"batch-{number:08}")
        answer = self.queue.replay(batch_id, new_id)
        assert answer is not None
        self.met["replayed", answer.created] += 1
        if answer.created:
            first, now_ms = session.sent[batch_id], self.now_ms()
            session.send(
                Sent(
                    id=new_id,
                    number=number,
                    when=when_sent_again(first.when),
                    agent=first.agent,
                    context=first.context,
                    sent_ms=now_ms,
                    available_ms=now_ms,
                    merge_key=first.merge_key,
                )
            )
        else:
            assert answer.id in session.batches

    # ------------------------------------------------------------ time

    @rule(ms=st.sampled_from([1, 99, 201, WORKER_TTL_MS, WORKER_TTL_MS // 2]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms / 1000)

    @rule(worker=st.integers(0, 2))
    def beat(self, worker: int) -> None:
        self.scene.beat(self.workers[worker])
        self.seen_ms[self.workers[worker]] = self.now_ms()

    def live(self) -> list[str]:
        return [worker for worker, seen_ms in self.seen_ms.items() if seen_ms > self.now_ms() - WORKER_TTL_MS]

    # ------------------------------------------------------------ workers

    @rule(
        one=st.sampled_from([0, 0, 0, 1]),
        worker=st.integers(0, 2),
        agents=st.sampled_from([("support", "sales"), ("support", "sales"), ("support", "sales"), ("support",)]),
    )
    def open(self, one: int, worker: int, agents: tuple[str, ...]) -> None:
        session, by, now_ms = self.sessions[one], self.workers[worker], self.now_ms()
        serves = {name: AGENTS[name] for name in agents}
        resumed = session.turn is not None
        wanted = session.open(by, serves, self.live(), now_ms)
        answer = self.scene.try_open(by, session_id=session.id, agents=serves)
        self.met[answer if isinstance(answer, NotOpened) else ("opened", answer.resumed, answer.attempt > 1)] += 1
        if isinstance(wanted, NotOpened):
            assert answer is wanted
            return
        assert isinstance(answer, OpenedTurn)
        self.compare_opened(session, wanted, answer, resumed)
        self.holds.append(Hold(session, answer, [sent.id for sent in wanted.claimed]))
        first, *others = wanted.intent
        if first.when is When.MERGE and not resumed:
            self.met["merged", bool(others)] += 1
            self.met["was quiet"] += first.quiet_ms is not None

    def compare_opened(self, session: SessionModel, wanted: TurnModel, opened: OpenedTurn, resumed: bool) -> None:
        intent = opened.intent
        assert opened.resumed == resumed
        assert (intent.turn_id, intent.turn_index) == (wanted.id, wanted.index)
        assert intent.base_revision == wanted.base_revision == session.head
        assert list(intent.batch_ids) == [batch.id for batch in opened.batches] == [sent.id for sent in wanted.intent]
        assert (intent.agent, intent.agent_ref) == (wanted.intent[0].agent, AGENTS[wanted.intent[0].agent])
        assert (opened.fence, opened.attempt) == (wanted.fence, wanted.attempt)
        assert opened.cancel == session.queue.cancelled
        assert opened.joinable == bool(session.queue.joinable(self.now_ms()))
        assert {effect.replay_key: effect.state for effect in opened.journal} == wanted.effects
        assert [stored.revision for stored in opened.history] == list(range(1, session.head + 1))

    def hold(self, which: int) -> Hold:
        """Mostly the newest, at times one whose turn was taken over or is over."""
        return self.holds[-1 - min(which, len(self.holds) - 1)]

    whichever = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5])
    holding = precondition(lambda self: self.holds)

    @holding
    @rule(which=whichever, key=st.sampled_from(["e1", "e2", "e3"]), state=st.sampled_from(EffectState))
    def record(self, which: int, key: str, state: EffectState) -> None:
        hold, now_ms = self.hold(which), self.now_ms()
        session, intent = hold.session, hold.opened.intent
        wanted = session.record(intent.turn_id, hold.opened.fence, key, state)
        [reply] = self.store.record([journal_row(hold.opened, key, state=state)])
        assert reply.verdict is wanted
        self.met[reply.verdict] += 1
        if wanted is not RecordVerdict.FENCED:
            run = session.queue.next_run(now_ms)
            assert reply.cancel == session.queue.cancelled
            assert reply.joinable == bool(run and run[0].when is When.STEER)

    @holding
    @rule(which=whichever, key=st.sampled_from(["c1", "c2", "c3"]))
    def checkpoint(self, which: int, key: str) -> None:
        hold = self.hold(which)
        session, opened = hold.session, hold.opened
        wanted = session.checkpoint(opened.intent.turn_id, opened.fence, key, self.now_ms())
        context = self.context_of(hold)
        answer = self.scene.checkpoint(opened, key, context_digest=digest(context or None))
        self.met[type(answer) if isinstance(answer, CheckpointTaken) else ("checkpoint", answer)] += 1
        if isinstance(wanted, list):
            assert isinstance(answer, CheckpointTaken)
            assert [batch.id for batch in answer.batches] == [sent.id for sent in wanted]
            hold.claimed += [sent.id for sent in wanted]
        else:
            assert answer is wanted

    @holding
    @rule(
        which=whichever,
        may_wait=st.booleans(),
        dead=st.sampled_from([False, False, False, True]),
        forgets=st.sampled_from([False, False, False, False, True]),
        another=st.sampled_from([False, False, False, True]),
    )
    def commit(self, which: int, may_wait: bool, dead: bool, forgets: bool, another: bool) -> None:
        hold = self.hold(which)
        session, opened = hold.session, hold.opened
        batch_ids = hold.claimed[:-1] if forgets else hold.claimed
        stamp = f"{opened.intent.turn_id}{another}"
        context = self.context_of(hold)
        wanted = session.commit(
            opened.intent.turn_id, opened.fence, batch_ids, stamp, self.now_ms(), may_wait=may_wait, dead=dead
        )
        answer = self.scene.commit(
            opened,
            batch_ids=tuple(batch_ids),
            stamp=stamp,
            refuse_if_joinable=may_wait,
            context_digest=digest(context or None),
            nodes=(node(hold.nodes),),
            dead_reason="attempts_exhausted" if dead else None,
        )
        self.met[type(answer) if isinstance(answer, Committed) else ("commit", answer)] += 1
        if isinstance(wanted, int):
            more = bool(session.queue.next_run(self.now_ms()))
            assert answer == Committed(wanted, self.now_ms(), more)
        else:
            assert answer is wanted

    def context_of(self, hold: Hold) -> str:
        known = hold.session.sent
        return next((known[batch_id].context for batch_id in hold.claimed if batch_id in known), "")

    @holding
    @rule(which=whichever, crashed=st.booleans())
    def give_up(self, which: int, crashed: bool) -> None:
        hold = self.hold(which)
        session, intent, fence = hold.session, hold.opened.intent, hold.opened.fence
        wanted = session.give_up(intent.turn_id, fence, crashed=crashed)
        assert self.store.give_up(session.id, intent.turn_id, fence, crashed=crashed) is wanted

    @holding
    @rule(which=whichever)
    def cancel_turn(self, which: int) -> None:
        hold = self.hold(which)
        turn_id = hold.opened.intent.turn_id
        wanted = hold.session.request_cancel(turn_id)
        assert self.store.request_cancel(hold.session.id, turn_id, "enough") is wanted

    @rule(sure=st.integers(0, 7))
    def delete(self, sure: int) -> None:
        """Only the second session, and seldom."""
        if sure == 0:
            session = self.sessions[1]
            self.met["deleted", session.turn is not None] += 1
            assert self.ends.delete(session.id) is session.delete()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def all_rows_are_as_they_must_be(self) -> None:
        rows = self.rows()
        for session in self.sessions:
            of_session = {name: [row for row in found if row["of"] == session.id] for name, found in rows.items()}
            self.are_those_of_the_model(session, of_session)
            self.break_no_law(session, of_session)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """What is stored of the two sessions; `of` says of which."""
        ids = [session.id for session in self.sessions]
        fences = {fence_scope(session): session for session in ids}
        journals = {effect_scope(hold.session.id, hold.opened.intent.turn_id): hold.session.id for hold in self.holds}
        by_scope: list[tuple[Any, dict[str, SessionId]]] = [(tables.fences, fences), (tables.effects, journals)]
        found: dict[str, list[dict[str, Any]]] = {}
        with self.database.reading() as connection:
            for table in (tables.batches, tables.turns, tables.dead_letters, tables.turn_cancels, tables.nodes):
                query = select(table.c.session_id.label("of"), table).where(table.c.session_id.in_(ids))
                found[table.name] = [dict(row) for row in connection.execute(query).mappings()]
            for table, scopes in by_scope:
                query = select(table).where(table.c.scope.in_(scopes))
                found[table.name] = [
                    {**row, "of": scopes[row["scope"]]} for row in connection.execute(query).mappings()
                ]
        return found

    def are_those_of_the_model(self, session: SessionModel, rows: dict[str, list[dict[str, Any]]]) -> None:
        batches = {row["id"]: (BatchState(row["state"]), row["turn_id"]) for row in rows["lash_batches"]}
        assert batches == session.batches
        assert {row["turn_id"]: row["stamp"] for row in rows["lash_turns"] if row["stamp"]} == session.stamps
        turn = session.turn
        assert [
            (row["turn_id"], row["fence"], row["holder"], row["attempt"])
            for row in rows["lash_turns"]
            if not row["stamp"]
        ] == ([] if turn is None else [(turn.id, turn.fence, turn.holder, turn.attempt)])
        assert {row["batch_id"] for row in rows["lash_dead_letters"]} == session.dead
        assert bool(rows["lash_turn_cancels"]) == (turn is not None and session.queue.cancelled)
        journal = {(row["scope"].rpartition("/")[2], row["replay_key"]) for row in rows["lash_effects"]}
        assert journal == session.effects
        assert sum(row["fence"] for row in rows["lash_fences"]) == session.fence

    def break_no_law(self, session: SessionModel, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Said without the model, so that both being wrong in the same way does not help."""
        fences = self.fences[session.id]
        fences += [row["fence"] for row in rows["lash_fences"]]
        assert fences == sorted(fences), "fences only grow"
        turns = {row["turn_id"]: row["status"] for row in rows["lash_turns"]}
        assert list(turns.values()).count("running") <= 1, "one unfinished turn at most"
        for row in rows["lash_batches"]:
            of_state = {"claimed": "running", "consumed": "committed", "dead": "committed"}.get(row["state"])
            assert turns.get(row["turn_id"]) == of_state, "what a turn has taken is that turn's, and it ends it"
        revisions = sorted(row["revision"] for row in rows["lash_nodes"])
        assert revisions == list(range(1, len(revisions) + 1)), "revisions have no gap"
        committed = sorted(row["turn_index"] for row in rows["lash_turns"] if row["status"] == "committed")
        assert committed == revisions, "each revision is that of one turn"
        assert len({row["node_id"] for row in rows["lash_nodes"]}) == len(rows["lash_nodes"]), "no message twice"
