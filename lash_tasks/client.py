"""What other services import: send input to a session, wait for the answer, watch the session, cancel."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.commands import CommandKind
from lash_tasks.domain.founding import Start
from lash_tasks.domain.frames import FrameRecord
from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.inputs import TurnInput
from lash_tasks.domain.queue import When
from lash_tasks.domain.snapshots import SessionSnapshot
from lash_tasks.domain.turns import AgentFrameRun, AssembledTurn
from lash_tasks.domain.usage import (
    SessionUsageReport,
    UsageTotal,
    ledger_of,
    merge_totals,
    prompt_usage,
    usage_report,
)
from lash_tasks.errors import BlockingWaitInWorker, InvalidInput, NotFound, PayloadTooLarge
from lash_tasks.observation.following import FollowEvent, follow
from lash_tasks.observation.listening import UNWOKEN, WOKEN, Sources
from lash_tasks.observation.receipts import ReceiptStatus, read_status, wait_for_run
from lash_tasks.observation.snapshots import SnapshotSources, take_snapshot
from lash_tasks.runtime.client_arguments import (
    check_flag,
    check_revision,
    check_seconds,
    check_session,
    check_stop,
    milliseconds,
    quiet_ms,
)
from lash_tasks.runtime.ingress import CancelAnswer, CancelRequest, CommandRequest, SendRequest
from lash_tasks.runtime.ingress_requests import check_name
from lash_tasks.runtime.registrar import SessionInfo
from lash_tasks.runtime.session_requests import CreateRequest
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores
from lash_tasks.wiring import ClientParts, open_client_parts


class Client:
    """The way in and out for services that run no agent themselves. Safe from any thread; close it when done.

    Settings come from the environment unless given. ConfigurationError and SchemaBehind come from the constructor.
    Every method raises StoreUnavailable when the database cannot be reached; Redis and the broker only make things
    quicker, and their failures are no errors here.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._use(open_client_parts(settings))

    @classmethod
    def from_parts(cls, parts: ClientParts) -> Self:
        """A client over parts that somebody else has opened, such as the embedded stack."""
        client = cls.__new__(cls)
        client._use(parts)
        return client

    def _use(self, parts: ClientParts) -> None:
        self._parts = parts
        self._sources = Sources(
            queue=parts.stores.queue,
            sessions=parts.stores.sessions,
            live=parts.stores.live,
            clock=parts.clock,
            pace=WOKEN if parts.settings.redis_url else UNWOKEN,
        )

    def send(
        self,
        session_id: str,
        text: str | TurnInput | Mapping[str, object],
        *,
        agent: str,
        idempotency_key: str | None = None,
        context: JsonObject | None = None,
        model: str | None = None,
        parent: str | None = None,
        when: str = When.QUEUE,
        merge_key: str | None = None,
        quiet: float | timedelta | None = None,
        available_at: datetime | None = None,
        connection: object | None = None,
    ) -> Receipt:
        """Send an input; it is accepted when this returns, or with `connection` when that transaction commits.

        `text` is a text, a TurnInput with images, or the mapping `{"items": […], "image_blobs": {…}}`. The same key
        with the same input returns the first receipt, also after the answer. `context` (JSON, up to 16 KiB) reaches
        the tools and never the model. A delayed input is taken when `available_at` has passed.

        `when` says how the input meets a session that is at work. `queue`: after the current turn, in a turn of its
        own. `steer`: into the running turn at its next checkpoint. `interrupt`: the running turn is asked to stop,
        and this goes next. `reject`: only into an idle session. `merge`: after the current turn, together with its
        neighbours of the same `merge_key`; with `quiet` (seconds or a timedelta) not before none of them has come
        for so long, but at the latest after ten times that. Inputs of different contexts share no turn.

        `model` (`provider:model`) answers this one turn in place of the session's. With `parent` the session must be
        a child of it.

        `connection` is a SQLAlchemy Connection or Session, a psycopg 3 connection or Django's; where it cannot say
        when it has committed, call `receipt.ring()` then or leave it to the sweep. An interruption that waits there to
        be committed may miss a turn that is opened meanwhile: it then goes next after that turn, which runs to its end.

        Raises InvalidInput (with the field), PayloadTooLarge, UnknownAgent, NoWorkerHasRegistered,
        IdempotencyConflict, SessionBusy, SessionDeleted, SessionMismatch and StoreMismatch; then nothing was stored.
        """
        if parent is not None:
            self._parts.registrar.require_child(
                check_session("session_id", session_id), check_session("parent", parent)
            )
        request = _parsed(
            {
                "session_id": session_id,
                "agent": agent,
                **_content(text),
                "idempotency_key": idempotency_key,
                "context": context,
                "model": model,
                "when": when,
                "merge_key": merge_key,
                "quiet_ms": quiet_ms(quiet),
                "available_at_ms": milliseconds("available_at", available_at),
            }
        )
        accepted = self._parts.ingress.accept(request, connection=connection)
        return Receipt(accepted.session_id, accepted.id, accepted.created, self)

    def receipt(self, session_id: str, *, idempotency_key: str | None = None, input_id: str | None = None) -> Receipt:
        """The receipt of an input that was sent before, by its key or its id. NotFound if there is none."""
        session = check_session("session_id", session_id)
        if (idempotency_key is None) == (input_id is None):
            raise InvalidInput("idempotency_key", "give exactly one of idempotency_key and input_id")
        key = None if idempotency_key is None else check_name("idempotency_key", idempotency_key)
        batch_id = None if input_id is None else BatchId(check_name("input_id", input_id))
        batch = self._parts.stores.queue.find(session, batch_id=batch_id, source_key=key)
        if batch is None:
            raise NotFound("input", batch_id) if batch_id else NotFound("input with the idempotency key", key or "")
        return Receipt(session, batch.id, False, self)

    def cancel(
        self,
        session_id: str,
        *,
        idempotency_key: str | None = None,
        input_id: str | None = None,
        turn_id: str | None = None,
        reason: str | None = None,
    ) -> CancelAnswer:
        """Cancel an input that no turn has taken, or ask a turn to stop: name exactly one. Idempotent.

        The answer's verdict for an input is `cancelled`, `taken` (by the turn it names) or `ended`; for a turn
        `requested` or `ended`. A turn that is asked to stop commits as cancelled with what is complete. Raises
        NotFound for an unknown input or turn.
        """
        named = {"input_id": input_id, "idempotency_key": idempotency_key, "turn_id": turn_id, "reason": reason}
        given = {name: value for name, value in named.items() if value is not None}
        return self._parts.ingress.cancel(CancelRequest.parse({"session_id": session_id, **given}))

    def follow(
        self,
        session_id: str,
        cursor: str | None = None,
        *,
        stop: threading.Event | None = None,
        idle_timeout: float | None = None,
    ) -> Iterator[FollowEvent]:
        """Events of a session: a snapshot, then what comes, with `reset` and `gap` markers where they are due.

        `cursor` is one that an earlier event carried. Ends when `stop` is set (within a second) or nothing came for
        `idle_timeout` seconds. A `committed` event carries the turn as JSON, each turn once and in order, also while
        Redis is down. Raises InvalidInput, as for a cursor that is malformed or another session's, and SessionDeleted.
        """
        session = check_session("session_id", session_id)
        if not isinstance(cursor, str | None):
            raise InvalidInput("cursor", f"must be a string, not {type(cursor).__name__}")
        return follow(
            self._sources,
            session,
            cursor,
            stop=check_stop("stop", stop),
            idle_timeout=check_seconds("idle_timeout", idle_timeout),
        )

    def replay(self, input_id: str) -> Receipt:
        """Send a dead letter's input again, as a new input; a second replay returns the first's. NotFound."""
        accepted = self._parts.ingress.replay(BatchId(check_name("input_id", input_id)))
        return Receipt(accepted.session_id, accepted.id, accepted.created, self)

    def usage(self, session_id: str | None = None, *, since: datetime | None = None) -> list[UsageTotal]:
        """The tokens that committed turns have used, by source and model: of one session or of all that exist.

        With `since` only of turns committed then or later. A recorded answer counts once, however often its turn was
        resumed. That of one session has its children's under their labels.
        """
        sessions, since_ms = self._parts.stores.sessions, milliseconds("since", since) or 0
        if session_id is None:
            return sessions.usage(None, since_ms)
        session = check_session("session_id", session_id)
        return merge_totals([*sessions.usage(session, since_ms), *sessions.children_usage(session, since_ms)])

    def usage_report(self, session_id: str) -> SessionUsageReport:
        """A session's tokens in one report: in all, by source, by model, by both, and the size of its last prompt.

        Those of its children are among them, and once more by themselves.
        """
        session = check_session("session_id", session_id)
        sessions = self._parts.stores.sessions
        last = sessions.last_call(session)
        return usage_report(
            ledger_of(sessions.usage(session)),
            None if last is None else prompt_usage(last),
            children=ledger_of(sessions.children_usage(session)),
        )

    # ------------------------------------------------------------ sessions

    def create_session(
        self,
        session_id: str | None = None,
        *,
        agent: str | None = None,
        name: str | None = None,
        parent: str | None = None,
        caused_by: JsonObject | None = None,
        usage_source: str | None = None,
        start: str = Start.EMPTY,
        source: str | None = None,
        initial_messages: Sequence[object] = (),
        spec: JsonObject | None = None,
        fresh: bool = False,
        expected_revision: int | None = None,
    ) -> SessionInfo:
        """Create a session, under an id of its own or a new one, and return it with the policy of its turns.

        A session also comes to be by being sent to; this one has a `name`, says something over its agent's policy
        (`spec`), or is a child: `parent` is whose, `caused_by` says by what, and `usage_source` is the label its usage
        has in the parent's report. `start` is `empty`, `current_session` for a copy of what the parent shows now, or
        `existing_session` for a copy of `source`; `initial_messages` follow. A deleted id may be created again.

        `fresh` lets a session that exists begin anew, provided that it is at `expected_revision`, by default the one
        that it has now: nothing that it showed can be reached any more.

        Raises InvalidInput (with the field), UnknownAgent, NoWorkerHasRegistered, PayloadTooLarge,
        SessionAlreadyExists, NotFound and SessionDeleted (of a parent or source); with `fresh` HeadRevisionConflict and
        SessionBusy. Then nothing was stored.
        """
        values = {
            "session_id": session_id if session_id is not None else self._parts.registrar.new_session_id(),
            "agent": agent,
            "name": name,
            "parent": parent,
            "caused_by": caused_by,
            "usage_source": usage_source,
            "start": start,
            "source": source,
            "spec": spec,
        }
        new = CreateRequest.parse(values, initial_messages)
        revision = check_revision("expected_revision", expected_revision, fresh=check_flag("fresh", fresh))
        if not fresh:
            return self._parts.registrar.create(new)
        if new.source_id is not None or new.parent_id is not None:
            raise InvalidInput("fresh", "begins with initial_messages only; leave out parent, start and source")
        return self._parts.registrar.begin_anew(new, revision)

    def session(self, session_id: str) -> SessionInfo:
        """The session as it stands, with the policy that its turns go by. NotFound, SessionDeleted."""
        return self._parts.registrar.show(check_session("session_id", session_id))

    def children(self, session_id: str) -> list[SessionInfo]:
        """The sessions that were created as children of this one and are not deleted, oldest first."""
        return self._parts.registrar.children(check_session("session_id", session_id))

    def frames(self, session_id: str) -> list[FrameRecord]:
        """The frames of a session, oldest first; it is in the `active` one. None of an unknown session."""
        return self._parts.stores.frames.frames(check_session("session_id", session_id))

    def snapshot(self, session_id: str) -> SessionSnapshot:
        """A session as it rests between two turns: policy, frames, all nodes, usage, states. `as_json()` is plain JSON.

        NotFound, SessionDeleted.
        """
        stores = self._parts.stores
        sources = SnapshotSources(stores.sessions, stores.frames, stores.graph)
        policy = self.session(session_id).policy
        as_json = None if policy is None else policy.as_json()
        return take_snapshot(sources, check_session("session_id", session_id), as_json)

    def rename_session(self, session_id: str, name: str) -> SessionInfo:
        """Give the session another name. NotFound, SessionDeleted."""
        return self._parts.registrar.rename(check_session("session_id", session_id), check_name("name", name))

    def delete_session(self, session_id: str, *, only_if_idle: bool = False, purge: bool = False) -> bool:
        """Delete the session with everything in it; a running turn of it is thrown out, its children stay.

        With `only_if_idle` SessionBusy while a turn of it is unfinished. With `purge` images and large results that
        only this session had go at once, and not with the next collection. Idempotent; False if there never was one.
        """
        return self._parts.stores.sessions.delete(
            check_session("session_id", session_id),
            only_if_idle=check_flag("only_if_idle", only_if_idle),
            purge=check_flag("purge", purge),
        )

    def command(
        self,
        session_id: str,
        kind: str,
        arguments: JsonObject | None = None,
        *,
        idempotency_key: str,
        agent: str | None = None,
        connection: object | None = None,
    ) -> Receipt:
        """Send a command: `configure_session`, `reset_session`, `branch_to_node`, `append_session_nodes` and so on.

        It waits its turn among the session's input and is applied in a turn of its own, without a model call;
        `receipt.result().output` says what it did. The same key with the same command returns the first receipt.
        Without `agent` it is for the session's. Raises what `send` raises, and BlankCommandKey.
        """
        request = CommandRequest.parse(
            {
                "session_id": session_id,
                "kind": kind,
                "arguments": {} if arguments is None else arguments,
                "idempotency_key": idempotency_key,
                "agent": agent,
            }
        )
        accepted = self._parts.ingress.command(request, connection=connection)
        return Receipt(accepted.session_id, accepted.id, accepted.created, self)

    def configure(
        self, session_id: str, *, agent: str | None = None, idempotency_key: str | None = None, **spec: Any
    ) -> Receipt:
        """The command `configure_session`: `model`, `max_turns`, `instructions`, `options`, `tools`, `inherit`.

        What is not given stays as it is; None takes back what the session had said, and for `max_turns` the bound.
        """
        return self._command(session_id, CommandKind.CONFIGURE_SESSION, {"spec": spec}, agent, idempotency_key)

    def reset(
        self,
        session_id: str,
        *,
        reason: str | None = None,
        agent: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """The command `reset_session`: the session goes on with nothing said; its policy and its usage stay."""
        return self._command(session_id, CommandKind.RESET_SESSION, {"reason": reason}, agent, idempotency_key)

    def _command(
        self, session_id: str, kind: CommandKind, arguments: JsonObject, agent: str | None, key: str | None
    ) -> Receipt:
        key = key if key is not None else self._parts.ingress.new_id()
        return self.command(session_id, kind, arguments, idempotency_key=key, agent=agent)

    # ------------------------------------------------------------ the application

    def agents(self) -> list[str]:
        """The names of the agents that workers have registered."""
        return [agent.name for agent in self._parts.stores.fleet.agents()]

    @property
    def stores(self) -> Stores:
        """The stores beneath, for inspection."""
        return self._parts.stores

    def close(self) -> None:
        """Close connections. Idempotent; receipts of this client are of no use afterwards."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Receipt:
    """An accepted input. `created` is False when an earlier send with the same key had stored it."""

    session_id: str
    input_id: str
    created: bool
    _client: Client = field(repr=False, compare=False)

    def status(self) -> ReceiptStatus:
        """`queued`, `running`, `committed(turn)`, `cancelled` or `dead(reason)`, as SQL has it now.

        A switch to another frame leaves it `running`, in the turn that follows.

        Raises SessionDeleted, and NotFound when the input's row was pruned or its transaction has not committed.
        """
        return read_status(self._client._sources, *self._ids)

    def result(self, timeout: float | None = None) -> AssembledTurn:
        """The turn that answers the input, once it is committed and whatever its outcome: see `turn.ok`.

        Where tools switched frames it is the last turn, see `run`. Raises ResultTimeout after `timeout` seconds (the
        work goes on: ask again), InputCancelled, InputDeadLettered, SessionDeleted, and BlockingWaitInWorker inside a
        worker.
        """
        return self.run(timeout).final_turn

    def run(self, timeout: float | None = None) -> AgentFrameRun:
        """All turns that answer the input: one, and one more for each switch to another frame. Raises as `result`."""
        timeout = check_seconds("timeout", timeout)
        if self._client._parts.in_worker():
            raise BlockingWaitInWorker
        return wait_for_run(self._client._sources, *self._ids, timeout)

    def ring(self) -> None:
        """Ring for the session: after a `connection=` commit that could not say so. A ring too many does no harm."""
        self._client._parts.doorbell.ring_session(self._ids[0])

    def cancel(self) -> CancelAnswer:
        """Cancel the input if no turn has taken it; the answer says what became of it."""
        return self._client.cancel(self.session_id, input_id=self.input_id)

    @property
    def _ids(self) -> tuple[SessionId, BatchId]:
        return SessionId(self.session_id), BatchId(self.input_id)


def _content(text: object) -> dict[str, Any]:
    """The input as the door reads it: either `text` or `input`."""
    match text:
        case str():
            return {"text": text}
        case TurnInput():
            try:
                items, images = [asdict(item) for item in text.items], dict(text.image_blobs)
            except (TypeError, ValueError):
                raise InvalidInput("text", "must be a TurnInput of text and image items, and images by id") from None
            return {"input": {"items": items, "image_blobs": images}}
        case Mapping():
            return {"input": dict(text)}
        case _:
            raise InvalidInput("text", f"must be a string, a TurnInput or a mapping, not {type(text).__name__}")


def _parsed(values: Mapping[str, object]) -> SendRequest:
    try:
        return SendRequest.parse(values)
    except InvalidInput as refused:
        if refused.field in _OUR_NAMES and not isinstance(refused, PayloadTooLarge):
            raise InvalidInput(_OUR_NAMES[refused.field], refused.problem) from None
        raise


_OUR_NAMES = {"quiet_ms": "quiet", "available_at_ms": "available_at"}
"""Fields of a request that have another name here."""
