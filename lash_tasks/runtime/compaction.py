"""Compaction: an agent's compactors are asked once what a session goes on with, and the answer is recorded."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.commands import CommandKind, QueuedCommand, command_digest, command_source_key
from lash_tasks.domain.frames import COMPACTION, FrameSwitch, Seed, compaction_frame_id, shown_frame_id
from lash_tasks.domain.ids import BatchId, effect_key
from lash_tasks.domain.inputs import context_digest
from lash_tasks.domain.journal import EffectKind, EffectState, Envelope
from lash_tasks.domain.queue import BatchDraft, BatchKind, BatchState
from lash_tasks.domain.sessions import transcript
from lash_tasks.domain.turns import TurnIntent
from lash_tasks.errors import LashError
from lash_tasks.machine.assembly import TurnResult
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.frame_runs import End, opening
from lash_tasks.runtime.journal import TurnJournal
from lash_tasks.runtime.journal_writer import JournalWriter
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.worker import Doing, Engagement
from lash_tasks.stores.protocols import FrameOpening, OpenedTurn
from lash_tasks.tools.compaction import CompactionContext

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compacted:
    """What the compactors said, as it is recorded. Without seeds the session stays as it is."""

    frame_id: str
    seeds: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Compaction:
    """Opens the frame that a session is compacted into. Safe from any thread."""

    services: RuntimeServices
    writer: JournalWriter

    def frame(self, opened: OpenedTurn, end: End, engagement: Engagement) -> FrameOpening | None:
        """The frame to open, behind `end`; None if no compactor has anything to say. Raises what a compactor raises."""
        compacted = self._compacted(opened, engagement)
        if not compacted.seeds:
            return None
        switch = FrameSwitch(compacted.frame_id, "", compacted.seeds, COMPACTION)
        return opening(self.services.frames, opened, switch, end)

    def _compacted(self, opened: OpenedTurn, engagement: Engagement) -> Compacted:
        """The recorded answer; where there is none, that of the agent's compactors, recorded before it is used."""
        intent = opened.intent
        journal = TurnJournal(self.writer, opened, self.services.clock, engagement.interrupt)
        kind = EffectKind.COMPACTION
        key = effect_key(intent.session_id, intent.turn_id, intent.turn_index, 0, kind.value, 1)
        recorded = journal.find(key)
        if recorded is not None:
            replayed: Compacted = decode(Compacted, recorded.outcome or b"")
            return replayed
        compacted = self._asked(opened, engagement)
        envelope = Envelope(kind, {"agent_ref": intent.agent_ref, "base_revision": intent.base_revision})
        journal.record(journal.row(key, 1, EffectState.DONE, envelope, encode(Compacted, compacted)))
        self.services.reached(CrashPoint.AFTER_RECORD)
        return compacted

    def _asked(self, opened: OpenedTurn, engagement: Engagement) -> Compacted:
        session_id, agent = opened.intent.session_id, self.services.agents[opened.intent.agent]
        history = self.services.sessions.history(session_id)
        context = CompactionContext(
            session_id=session_id,
            agent=agent.name,
            frame_id=shown_frame_id(session_id, opened.frame_id),
            messages=tuple(transcript(stored.node for stored in history)),
        )
        engagement.doing = Doing.INSTRUCTIONS
        engagement.deadline = self.services.clock.monotonic() + agent.max_turn_seconds
        try:
            seeds = agent.compacted(context)
        finally:
            engagement.doing = Doing.NOTHING
            engagement.deadline = None
        return Compacted(compaction_frame_id(session_id, self.services.new_id()), seeds)

    # ------------------------------------------------------------ by itself

    def follow(self, intent: TurnIntent, result: TurnResult) -> bool:
        """Put a compaction behind a turn whose last prompt was larger than its agent or its model likes.

        Returns whether there is a new one.

        One that waits is enough. What goes wrong here is no fault of the turn: the next one asks again.
        """
        agent = self.services.agents.get(intent.agent)
        limit = None if agent is None else agent.compact_above_tokens
        if limit is None or result.switch is not None:
            return False
        above = bool(result.usage) and result.usage[-1].usage.input_tokens > limit
        if not (above or result.overflowed):
            return False
        try:
            waiting = self.services.queue.waiting(intent.session_id)
            if any(_is_compaction(batch.source_key) for batch in waiting if batch.state is BatchState.READY):
                return False
            return self.services.queue.enqueue(_command(BatchId(self.services.new_id()), intent)).created
        except LashError:
            log.warning("a session could not be told to compact", extra={"session_id": intent.session_id})
            return False


def _is_compaction(source_key: str | None) -> bool:
    return source_key is not None and source_key.startswith(command_source_key(CommandKind.COMPACT_SESSION, ""))


def _command(batch_id: BatchId, intent: TurnIntent) -> BatchDraft:
    kind = CommandKind.COMPACT_SESSION
    return BatchDraft(
        id=batch_id,
        session_id=intent.session_id,
        agent=intent.agent,
        payload=encode(QueuedCommand, QueuedCommand(intent.agent, kind, {})),
        input_digest=command_digest(kind, {}),
        context_digest=context_digest(None),
        source_key=command_source_key(kind, f"after:{intent.turn_id}"),
        kind=BatchKind.COMMAND,
    )
