"""Every error that reaches a caller: stable codes and one tree.

    LashError
    ├── InvalidInput              refused at the door, names the field, nothing is stored
    │   ├── PayloadTooLarge
    │   ├── BlankCommandKey
    │   ├── UnknownAgent
    │   └── NoWorkerHasRegistered
    ├── IdempotencyConflict       the key was used before with another input
    ├── SessionBusy               the session has work, and was to have none
    ├── SessionDeleted
    ├── SessionAlreadyExists      sessions are created once
    ├── SessionMismatch           a session is not the child of the one named with it
    ├── NotFound
    ├── ConfigurationError        the sentence says what to change
    ├── BlockingWaitInWorker
    ├── ResultTimeout             the work goes on
    ├── InputCancelled
    ├── InputDeadLettered
    ├── EmptyAgentFrameRun
    ├── LeaseStoreUnavailable     Redis cannot be reached (retryable)
    └── StoreError
        ├── StoreUnavailable      the database cannot be reached or gave up (retryable)
        ├── CommitConflict        a turn's commit does not fit the head: a bug, nothing was written
        ├── HeadRevisionConflict  somebody else has changed the session meanwhile
        ├── StoreMismatch         connection= reaches another database
        ├── SchemaBehind
        └── UnsupportedRecordSchemaVersion

An error keeps its constructor arguments in `args`, so it survives pickling (Celery's result backend), and
composes its own sentence. Match on `code`, never on the sentence.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Codes that users may match on. They never change meaning."""

    INVALID_INPUT = "invalid_input"
    """An argument is refused; the field is named and nothing was stored. Mend it and send again."""
    PAYLOAD_TOO_LARGE = "payload_too_large"
    """Texts and images exceed `LASH_MAX_PAYLOAD_BYTES`, or the context 16 KiB. Send less, or a reference."""
    UNKNOWN_AGENT = "unknown_agent"
    """No worker has registered this agent. Mend the name, or deploy a worker that serves it."""
    NO_WORKER_HAS_REGISTERED = "no_worker_has_registered"
    """No worker has ever registered an agent in this database. Start one."""
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    """The key was used in this session before, with another input. Use a new key for a new input."""
    SESSION_EXECUTION_BUSY = "session_execution_busy"
    """The session has unfinished work and was to have none: `when="reject"`, `only_if_idle` or `fresh`. Wait for it, or
    cancel it."""
    SESSION_DELETED = "session_deleted"
    """The session was deleted. Create it again with `client.create_session`, or use another id."""
    SESSION_ALREADY_EXISTS = "session_already_exists"
    """A session is created once. Use another id, or open it afresh with `fresh=True`."""
    SESSION_MISMATCH = "session_mismatch"
    """The session is not a child of the one that was named as its parent; nothing was stored."""
    SESSION_COMMAND_IDEMPOTENCY_KEY = "session_command_idempotency_key"
    """A session command needs an idempotency key, and was given a blank one."""
    HEAD_REVISION_CONFLICT = "head_revision_conflict"
    """Somebody else has changed the session since it was read; nothing was written. Read it again."""
    NOT_FOUND = "not_found"
    """There is no session, turn, input or dead letter of this name."""
    CONFIGURATION = "configuration"
    """A setting, or the definition of an agent or tool, is wrong; the sentence says what to change."""
    BLOCKING_WAIT_IN_WORKER = "blocking_wait_in_worker"
    """`receipt.result()` was called inside a task, a tool or a turn, where it may wait for itself. Return, and follow
    the session."""
    RESULT_TIMEOUT = "result_timeout"
    """The wait is over and the work goes on. Ask the receipt again."""
    INPUT_CANCELLED = "input_cancelled"
    """The input was cancelled before a turn took it."""
    BATCH_DEAD_LETTERED = "batch_dead_lettered"
    """The input was given up with a reason. Mend the cause, then `lash-tasks queue replay` sends it again."""
    LEASE_STORE_UNAVAILABLE = "lease_store_unavailable"
    """Redis cannot be reached. No new turn starts; running ones go on."""
    STORE_COMMIT_FAILED = "store_commit_failed"
    """A turn does not fit what is stored. It is tried again and in the end dead-lettered. Report it as a bug."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The database cannot be reached, or gave up on a lock; nothing was written. Try again."""
    STORE_MISMATCH = "store_mismatch"
    """`connection=` reaches another database than the one with our tables."""
    SCHEMA_BEHIND = "schema_behind"
    """The tables are older than this code. Run `lash-tasks db upgrade`."""
    UNSUPPORTED_RECORD_SCHEMA_VERSION = "unsupported_record_schema_version"
    """A record was written by another version of this code than this one can read. Upgrade the older side."""
    # Codes of issues inside a committed turn, which no exception carries.
    EFFECT_REPLAY_MISMATCH = "effect_replay_mismatch"
    """A resumed turn asked for something else than what is recorded. The turn ends with what is complete; the issue
    shows the difference."""
    TOOL_ATTEMPT_INTERRUPTED = "tool_attempt_interrupted"
    """A tool with `on_crash="never"` began and its worker died. Whether it was done is unknown; the model is told so
    and not to repeat it."""
    TOOL_UNAVAILABLE = "tool_unavailable"
    """The model called a tool that the agent does not have."""
    INVALID_TOOL_ARGS = "invalid_tool_args"
    """The model's arguments do not fit the tool. It is told what is wrong and may call again."""
    TOOL_TIMEOUT = "tool_timeout"
    """A tool used up its time, or that of the turn."""
    TOOL_FAILED = "tool_failed"
    """A tool raised an exception, or returned what JSON cannot carry. The model is told."""
    EMPTY_RESPONSE = "empty_response"
    """The model answered with nothing."""
    LLM_PROVIDER = "llm_provider"
    """The model's provider is not among those of the worker, or its call failed and it gave no code of its own."""
    PROVIDER_LIMIT = "provider_limit"
    """The turn ended while it waited for the limits of its provider."""
    ATTACHMENT_RESOLUTION_FAILED = "attachment_resolution_failed"
    """An image of the session is no longer in the database."""
    MAX_TURNS = "max_turns"
    """The turn used up `max_iterations` model calls."""
    MAX_FRAME_SWITCHES = "max_frame_switches"
    """One input switched frames 32 times and its next turn asked for one more. The turn ends there."""
    EMPTY_AGENT_FRAME_RUN = "empty_agent_frame_run"
    """A run without turns was asked for its final one."""
    FRAME_SUPERSEDED = "frame_superseded"
    """A tool asked for a frame that was left before. The model is told; name a new frame, or none."""
    TURN_TIME_EXCEEDED = "turn_time_exceeded"
    """The turn used up `max_turn_seconds`."""
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    """The turn was opened five times and made no progress. It ends with what is complete; its input is dead."""
    INSTRUCTIONS_FAILED = "instructions_failed"
    """The agent's instructions function raised an exception."""
    OUTPUT_INVALID = "output_invalid"
    """The model's answer does not fit the agent's `output_type`, also after it was told what is wrong."""
    INVALID_TURN_INPUT = "invalid_turn_input"
    """An image of the input is not in the database. The input is consumed and leaves no message. Send it again."""
    CONTEXT_PREPARE_TURN = "context_prepare_turn"
    """A plugin's `prepare_context` raised an exception, took too long, or left a prompt that no model takes."""
    PLUGIN_PREPARE_TURN = "plugin_prepare_turn"
    """A plugin's `before_turn` raised an exception, took too long, or returned no directives."""
    PLUGIN_CHECKPOINT = "plugin_checkpoint"
    """A plugin's `at_checkpoint` raised an exception, took too long, or returned no directives."""
    PLUGIN_FINALIZE_TURN = "plugin_finalize_turn"
    """A plugin's `after_turn` raised an exception, took too long, or wanted to abort the turn, which had ended."""
    MISSING_DONE = "missing_done"
    """The turn ended without an outcome. Report it as a bug."""


class LashError(Exception):
    """The root. `code` is stable, `retryable` says whether the same call may succeed later."""

    code: ClassVar[ErrorCode]
    retryable: ClassVar[bool] = False

    def sentence(self) -> str:
        """What is wrong and what to change, in one sentence."""
        return str(self.args[0]) if self.args else self.code.value

    def __str__(self) -> str:
        return self.sentence()

    def as_json(self) -> dict[str, str]:
        """`{"code", "message"}`, the form of every wire and of `--json`."""
        return {"code": self.code.value, "message": self.sentence()}


class InvalidInput(LashError):
    """Refused at the door: `field` is the path of the offending value, nothing was stored."""

    code = ErrorCode.INVALID_INPUT

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def sentence(self) -> str:
        return f"{self.field}: {self.problem}"

    def as_json(self) -> dict[str, str]:
        return {**super().as_json(), "field": self.field}


class PayloadTooLarge(InvalidInput):
    code = ErrorCode.PAYLOAD_TOO_LARGE

    def __init__(self, field: str, size: int, limit: int) -> None:
        super().__init__(field, f"is {size} bytes and may be at most {limit}")
        self.args = (field, size, limit)


class BlankCommandKey(InvalidInput):
    """A session command without a key: two of them could not be told from one that was sent twice."""

    code = ErrorCode.SESSION_COMMAND_IDEMPOTENCY_KEY

    def __init__(self) -> None:
        super().__init__("idempotency_key", "must not be blank; give every command a key of its own")
        self.args = ()


class UnknownAgent(InvalidInput):
    code = ErrorCode.UNKNOWN_AGENT

    def __init__(self, agent: str, known: tuple[str, ...]) -> None:
        super().__init__("agent", f"no worker serves {agent!r}; known agents: {', '.join(known)}")
        self.args = (agent, known)


class NoWorkerHasRegistered(InvalidInput):
    code = ErrorCode.NO_WORKER_HAS_REGISTERED

    def __init__(self, agent: str) -> None:
        super().__init__("agent", f"no worker has registered any agent yet; start a worker that serves {agent!r}")
        self.args = (agent,)


class IdempotencyConflict(LashError):
    code = ErrorCode.IDEMPOTENCY_CONFLICT

    def __init__(self, session_id: str, idempotency_key: str) -> None:
        super().__init__(session_id, idempotency_key)
        self.session_id = session_id
        self.idempotency_key = idempotency_key

    def sentence(self) -> str:
        return (
            f"idempotency_key: {self.idempotency_key!r} was already used in session {self.session_id!r} "
            "with another input; use a new key for a new input"
        )


class SessionBusy(LashError):
    """The session has a turn, or input ahead of the one that was sent with `when="reject"`, and was to have none."""

    code = ErrorCode.SESSION_EXECUTION_BUSY

    def __init__(self, session_id: str, rejected_input: bool = False) -> None:
        super().__init__(session_id, rejected_input)

    def sentence(self) -> str:
        session_id, rejected_input = self.args
        remedy = "send again later or with when='queue'" if rejected_input else "wait for it, or cancel it"
        return f"session {session_id!r} has unfinished work; {remedy}"


class SessionDeleted(LashError):
    code = ErrorCode.SESSION_DELETED

    def sentence(self) -> str:
        return f"session {self.args[0]!r} was deleted; create it again, or use another id"


class SessionAlreadyExists(LashError):
    code = ErrorCode.SESSION_ALREADY_EXISTS

    def sentence(self) -> str:
        return f"session {self.args[0]!r} exists already; use another id, or fresh=True to begin it anew"


class SessionMismatch(LashError):
    """The ids that were given together do not belong together."""

    code = ErrorCode.SESSION_MISMATCH

    def __init__(self, session_id: str, parent_id: str) -> None:
        super().__init__(session_id, parent_id)

    def sentence(self) -> str:
        return (
            f"session {self.args[0]!r} is not a child of session {self.args[1]!r}; name the parent it was created with"
        )


class NotFound(LashError):
    code = ErrorCode.NOT_FOUND

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)

    def sentence(self) -> str:
        return f"there is no {self.args[0]} {self.args[1]!r}"


class ConfigurationError(LashError):
    code = ErrorCode.CONFIGURATION


class BlockingWaitInWorker(LashError):
    code = ErrorCode.BLOCKING_WAIT_IN_WORKER

    def sentence(self) -> str:
        return "result() would block a worker thread; return from the task and follow the session instead"


class ResultTimeout(LashError):
    """The wait is over, the work goes on: ask the receipt again."""

    code = ErrorCode.RESULT_TIMEOUT
    retryable = True

    def __init__(self, session_id: str, seconds: float) -> None:
        super().__init__(session_id, seconds)

    def sentence(self) -> str:
        return (
            f"no result in session {self.args[0]!r} after {self.args[1]:g} s; the work goes on, ask the receipt again"
        )


class InputCancelled(LashError):
    code = ErrorCode.INPUT_CANCELLED

    def sentence(self) -> str:
        return f"input {self.args[0]!r} was cancelled before a turn took it"


class InputDeadLettered(LashError):
    code = ErrorCode.BATCH_DEAD_LETTERED

    def __init__(self, batch_id: str, reason: str) -> None:
        super().__init__(batch_id, reason)
        self.reason = reason

    def sentence(self) -> str:
        return (
            f"input {self.args[0]!r} was dead-lettered ({self.args[1]}); "
            f"mend the cause, then: lash-tasks queue replay {self.args[0]}"
        )


class EmptyAgentFrameRun(LashError):
    """The final turn of a run that has no turns."""

    code = ErrorCode.EMPTY_AGENT_FRAME_RUN

    def sentence(self) -> str:
        return "a run of agent frames has at least one turn, and this one has none; wait for receipt.run()"


class LeaseStoreUnavailable(LashError):
    """Redis cannot be reached: no new turn starts, running ones go on."""

    code = ErrorCode.LEASE_STORE_UNAVAILABLE
    retryable = True


class StoreError(LashError):
    code = ErrorCode.STORE_COMMIT_FAILED


class StoreUnavailable(StoreError):
    """The database cannot be reached, or it gave up on a lock or a serialization; nothing was written."""

    code = ErrorCode.STORE_UNAVAILABLE
    retryable = True


class CommitConflict(StoreError):
    """A turn does not fit what is stored. It is tried again and in the end buried.

    `reason` is `head_conflict`, `claim_expired` or `conflict`.
    """

    def __init__(self, session_id: str, turn_id: str, reason: str = "conflict") -> None:
        super().__init__(session_id, turn_id, reason)
        self.reason = reason

    def sentence(self) -> str:
        session_id, turn_id, reason = self.args
        return (
            f"turn {turn_id!r} does not fit what is stored of session {session_id!r} ({reason}); report this as a bug"
        )


class HeadRevisionConflict(StoreError):
    code = ErrorCode.HEAD_REVISION_CONFLICT

    def __init__(self, session_id: str, expected: int, actual: int) -> None:
        super().__init__(session_id, expected, actual)
        self.expected = expected
        self.actual = actual

    def sentence(self) -> str:
        return (
            f"session {self.args[0]!r} is at revision {self.actual} and not at {self.expected}: "
            "somebody else has changed it; read it again"
        )


class StoreMismatch(StoreError):
    code = ErrorCode.STORE_MISMATCH


class SchemaBehind(StoreError):
    code = ErrorCode.SCHEMA_BEHIND

    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(found, wanted)

    def sentence(self) -> str:
        found = self.args[0] or "nothing"
        return f"the database schema is at {found}, this code needs {self.args[1]}; run: lash-tasks db upgrade"


class UnsupportedRecordSchemaVersion(StoreError):
    code = ErrorCode.UNSUPPORTED_RECORD_SCHEMA_VERSION

    def __init__(self, record_kind: str, actual: int, expected: int) -> None:
        super().__init__(record_kind, actual, expected)
        self.actual = actual
        self.newer = actual > expected
        """Whether a later release has written it, rather than an earlier one or nobody that we know."""

    def sentence(self) -> str:
        kind, actual, expected = self.args
        return f"a stored {kind} has schema version {actual}, this code reads {expected}; upgrade the older side"
