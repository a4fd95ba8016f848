"""The door: every input and every cancel comes in here, from a client, a Celery message or the command line alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lash_tasks.clock import Clock
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.codec import JsonObject, encode, short_digest, to_json
from lash_tasks.domain.commands import QueuedCommand, command_digest, command_source_key, plain_arguments
from lash_tasks.domain.ids import BatchId, SessionId, TurnId
from lash_tasks.domain.inputs import ImageRefItem, QueuedInput, TurnInput, context_digest, normalise
from lash_tasks.domain.queue import BatchDraft, BatchKind, CancelVerdict, Enqueued, When, arrival, wake_draft
from lash_tasks.domain.wakes import QueuedWake
from lash_tasks.errors import BlankCommandKey, InvalidInput, NotFound, PayloadTooLarge, SessionDeleted
from lash_tasks.ports import Doorbell
from lash_tasks.runtime.ingress_requests import CancelRequest, SendRequest
from lash_tasks.runtime.live_writer import LiveWriter
from lash_tasks.runtime.session_requests import CommandRequest
from lash_tasks.stores.protocols import InputQueue, SessionRegistry, SessionStore, TurnStore

__all__ = ["CancelAnswer", "CancelRequest", "CommandRequest", "Ingress", "SendRequest"]


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """What became of a cancel.

    An input was `cancelled`, is `taken` by the turn named here, or has `ended` (in the turn named here, if any). A
    turn is `requested` to stop, or it has `ended`.
    """

    session_id: SessionId
    verdict: CancelVerdict
    input_id: BatchId | None = None
    turn_id: TurnId | None = None

    def as_json(self) -> JsonObject:
        answer: JsonObject = to_json(CancelAnswer, self)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """Checks what comes in, stores it, rings after the commit. Safe from any thread."""

    queue: InputQueue
    turns: TurnStore
    sessions: SessionStore
    registry: SessionRegistry
    doorbell: Doorbell
    live: LiveWriter
    clock: Clock
    new_id: Callable[[], str]
    max_payload_bytes: int

    def accept(
        self, request: SendRequest, *, connection: object | None = None, default_source_key: str | None = None
    ) -> Enqueued:
        """Store the input; it is accepted when this returns, or with `connection` when that transaction commits.

        `default_source_key` stands in for a missing idempotency key. The same key with the same agent, content,
        context, model, `when` and merge key returns the first batch; `available_at_ms` is not compared, because a
        caller who tries again computes it anew. Raises InvalidInput and its kin, IdempotencyConflict, SessionBusy,
        SessionDeleted, StoreMismatch, StoreUnavailable; then nothing was stored.
        """
        draft = self._draft(request, request.idempotency_key or default_source_key)
        due = draft.available_at_ms <= self.clock.now_ms() and draft.quiet_ms is None

        def stored() -> None:
            self._changed(draft.session_id, "enqueued", draft.id)
            if due:
                self.doorbell.ring_session(draft.session_id)

        if connection is None:
            enqueued = self.queue.enqueue(draft, reject_if_busy=request.when is When.REJECT)
            if enqueued.created:
                stored()
            return enqueued
        if request.when is When.REJECT:
            raise InvalidInput("when", "'reject' cannot be used with connection=; send it without, or use 'queue'")
        return self.queue.enqueue_with(connection, draft, on_commit=stored).enqueued

    def command(
        self, request: CommandRequest, *, connection: object | None = None, default_key: str | None = None
    ) -> Enqueued:
        """Store a command to the session behind the input that waits; it is applied in its turn.

        The same key with the same command returns the first batch. `default_key` stands in for a missing key.
        Without an agent it is the session's. Raises what `accept` raises, and BlankCommandKey.
        """
        session_id, key = SessionId(request.session_id), request.idempotency_key or default_key
        if key is None:
            raise BlankCommandKey
        agent = request.agent or self.registry.agent_of(session_id)
        if agent is None:
            raise InvalidInput("agent", "is required: no input and no turn says which agent the session has")
        arguments = plain_arguments(request.arguments)
        payload = encode(QueuedCommand, QueuedCommand(agent, request.kind, arguments))
        self._refuse_above_limit("arguments", len(payload))
        draft = BatchDraft(
            id=BatchId(self.new_id()),
            session_id=session_id,
            agent=agent,
            payload=payload,
            input_digest=command_digest(request.kind, arguments),
            context_digest=context_digest(None),
            source_key=command_source_key(request.kind, key),
            kind=BatchKind.COMMAND,
        )
        ring = partial(self.doorbell.ring_session, session_id)
        if connection is not None:
            return self.queue.enqueue_with(connection, draft, on_commit=ring).enqueued
        enqueued = self.queue.enqueue(draft)
        if enqueued.created:
            ring()
        return enqueued

    def cancel(self, request: CancelRequest) -> CancelAnswer:
        """Cancel an input that no turn has taken, or ask a turn to stop. Idempotent. NotFound for what never was."""
        session_id = SessionId(request.session_id)
        if request.turn_id is not None:
            turn_id = TurnId(request.turn_id)
            asked = self.turns.request_cancel(session_id, turn_id, request.reason)
            if not asked and self.sessions.turn(session_id, turn_id) is None:
                raise NotFound("turn", turn_id)
            verdict = CancelVerdict.REQUESTED if asked else CancelVerdict.ENDED
            return CancelAnswer(session_id, verdict, turn_id=turn_id)
        batch_id = self._batch_id(session_id, request)
        cancellation = self.queue.cancel(session_id, batch_id)
        if cancellation is None:
            raise NotFound("input", batch_id)
        if cancellation.verdict is CancelVerdict.CANCELLED:
            self._changed(session_id, "cancelled", batch_id)
        return CancelAnswer(session_id, cancellation.verdict, batch_id, cancellation.turn_id)

    def wake(self, session_id: SessionId, wake: QueuedWake) -> Enqueued | None:
        """Store what a process tells a session and ring; told twice, it is stored once.

        None for a session that was deleted: there is nobody to tell, and that is no failure.
        """
        try:
            enqueued = self.queue.enqueue(wake_draft(BatchId(self.new_id()), session_id, wake))
        except SessionDeleted:
            return None
        if enqueued.created:
            self._changed(enqueued.session_id, "enqueued", enqueued.id)
            self.doorbell.ring_session(session_id)
        return enqueued

    def replay(self, input_id: BatchId) -> Enqueued:
        """Send a dead letter's input again, as a new input; a second replay returns the first's. NotFound."""
        enqueued = self.queue.replay(input_id, BatchId(self.new_id()))
        if enqueued is None:
            raise NotFound("dead letter", input_id)
        if enqueued.created:
            self._changed(enqueued.session_id, "enqueued", enqueued.id)
        self.doorbell.ring_session(enqueued.session_id)
        return enqueued

    def _changed(self, session_id: SessionId, how: str, batch_id: BatchId) -> None:
        """Tell those who watch that the queue is another."""
        data: JsonObject = {"kind": how, "batch_ids": [batch_id]}
        self.live.append([TurnActivity(session_id, None, 0, 0, 0, ActivityType.QUEUE_CHANGED, data)])

    def _batch_id(self, session_id: SessionId, request: CancelRequest) -> BatchId:
        if request.input_id is not None:
            return BatchId(request.input_id)
        batch = self.queue.find(session_id, source_key=request.idempotency_key)
        if batch is None:
            raise NotFound("input with the idempotency key", request.idempotency_key or "")
        return batch.id

    def _draft(self, request: SendRequest, source_key: str | None) -> BatchDraft:
        turn_input = request.turn_input()
        self._check_size("text" if request.input is None else "input", turn_input)
        parts, blobs = normalise(turn_input)
        queued = QueuedInput(request.agent, parts, request.context, request.model)
        rule = arrival(request.when, request.merge_key)
        sent: JsonObject = {"input": to_json(QueuedInput, queued), "when": request.when.value}
        if request.merge_key is not None:
            sent["merge_key"] = request.merge_key
        return BatchDraft(
            id=BatchId(self.new_id()),
            session_id=SessionId(request.session_id),
            agent=request.agent,
            payload=encode(QueuedInput, queued),
            input_digest=short_digest(sent),
            context_digest=queued.context_digest(),
            source_key=source_key,
            early=rule.early,
            exclusive=rule.exclusive,
            merge_key=rule.merge_key,
            urgent=rule.urgent,
            quiet_ms=request.quiet_ms,
            available_at_ms=request.available_at_ms or 0,
            blobs=blobs,
        )

    def _check_size(self, field: str, turn_input: TurnInput) -> None:
        size = sum(
            len((item.id if isinstance(item, ImageRefItem) else item.text).encode()) for item in turn_input.items
        ) + sum(len(content) for content in turn_input.image_blobs.values())
        self._refuse_above_limit(field, size)

    def _refuse_above_limit(self, field: str, size: int) -> None:
        if size > self.max_payload_bytes:
            raise PayloadTooLarge(field, size, self.max_payload_bytes)
