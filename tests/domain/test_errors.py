"""Errors keep their code and their sentence over pickling, which is how Celery's result backend carries them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator

import pytest

from lash_tasks import errors
from lash_tasks.domain.codec import decode, encode, to_json
from lash_tasks.domain.turns import FailureClass, IssueKind, ToolFailure, TurnIssue
from lash_tasks.errors import ErrorCode, InvalidInput, LashError

SPECIMENS = [
    errors.InvalidInput("text", "must not be empty"),
    errors.PayloadTooLarge("text", 2_000_000, 1_048_576),
    errors.UnknownAgent("sales", ("billing", "support")),
    errors.NoWorkerHasRegistered("sales"),
    errors.IdempotencyConflict("customer-7", "msg-991"),
    errors.SessionBusy("customer-7"),
    errors.SessionBusy("customer-7", True),
    errors.SessionDeleted("customer-7"),
    errors.SessionAlreadyExists("customer-7"),
    errors.SessionMismatch("customer-7", "customer-8"),
    errors.BlankCommandKey(),
    errors.HeadRevisionConflict("customer-7", 1, 2),
    errors.NotFound("batch", "b1"),
    errors.ConfigurationError("Set LASH_DATABASE_URL"),
    errors.BlockingWaitInWorker(),
    errors.ResultTimeout("customer-7", 1.5),
    errors.InputCancelled("b1"),
    errors.InputDeadLettered("b1", "attempts_exhausted"),
    errors.EmptyAgentFrameRun(),
    errors.LeaseStoreUnavailable("Redis at 127.0.0.1 cannot be reached"),
    errors.StoreError("the commit failed"),
    errors.StoreUnavailable("the database cannot be reached"),
    errors.CommitConflict("customer-7", "turn-1"),
    errors.StoreMismatch("connection= reaches another database"),
    errors.SchemaBehind("0001", "0002"),
    errors.SchemaBehind(None, "0002"),
    errors.UnsupportedRecordSchemaVersion("QueuedInput", 2, 1),
]
each = pytest.mark.parametrize("error", SPECIMENS, ids=lambda error: type(error).__name__)


def tree(root: type[LashError]) -> Iterator[type[LashError]]:
    for error in root.__subclasses__():
        if error.__module__ == errors.__name__:
            yield error
            yield from tree(error)


def test_every_error_is_tried_here() -> None:
    assert {type(error) for error in SPECIMENS} == set(tree(LashError))


@pytest.mark.shows("E1")
@each
def test_an_error_survives_pickling(error: LashError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert (str(copy), copy.code, copy.retryable) == (str(error), error.code, error.retryable)


@pytest.mark.shows("E1")
@each
def test_an_error_is_one_sentence_on_every_wire(error: LashError) -> None:
    form = json.loads(json.dumps(error.as_json()))

    assert form["code"] == error.code.value
    assert form["message"] == str(error)
    assert str(error)
    assert "\n" not in str(error)
    assert ("field" in form) == isinstance(error, InvalidInput)


def test_errors_are_told_apart_by_their_codes() -> None:
    """An error without a code of its own is a case of its parent."""
    codes = [error.code for error in tree(LashError) if "code" in vars(error)]

    assert len(codes) == len(set(codes))


@pytest.mark.shows("E1")
@pytest.mark.parametrize("code", [*ErrorCode, "my_plugin.out_of_stock", "", "Größe: 3"])
def test_a_code_in_a_stored_result_comes_back_as_it_was_also_one_that_we_do_not_know(code: str) -> None:
    """Plugins have codes of their own; a reader of an older version meets those of a newer one."""
    issue = TurnIssue(IssueKind.RUNTIME, code, "what went wrong")
    failure = ToolFailure(FailureClass.EXECUTION, code, "what went wrong")

    assert decode(TurnIssue, encode(TurnIssue, issue)) == issue
    assert decode(ToolFailure, encode(ToolFailure, failure)) == failure
    assert json.loads(json.dumps(to_json(TurnIssue, issue)))["code"] == str(code)


@pytest.mark.shows("E1")
@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_code_is_its_own_spelling(code: ErrorCode) -> None:
    assert ErrorCode(code.value) is code
    assert ErrorCode(json.loads(json.dumps(code))) is code
    assert pickle.loads(pickle.dumps(code)) is code
    assert code.value == code.value.lower()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.InvalidInput("text", "must not be empty"), "text: must not be empty"),
        (errors.PayloadTooLarge("text", 2, 1), "text: is 2 bytes and may be at most 1"),
        (errors.UnknownAgent("x", ("a", "b")), "agent: no worker serves 'x'; known agents: a, b"),
        (errors.NotFound("batch", "b1"), "there is no batch 'b1'"),
        (errors.SessionBusy("s"), "session 's' has unfinished work; wait for it, or cancel it"),
        (errors.SessionBusy("s", True), "session 's' has unfinished work; send again later or with when='queue'"),
        (errors.SessionDeleted("s"), "session 's' was deleted; create it again, or use another id"),
        (errors.ResultTimeout("s", 60), "no result in session 's' after 60 s; the work goes on, ask the receipt again"),
        (
            errors.SchemaBehind(None, "0002"),
            "the database schema is at nothing, this code needs 0002; run: lash-tasks db upgrade",
        ),
    ],
)
def test_the_sentence_says_what_is_wrong_and_what_to_do(error: LashError, sentence: str) -> None:
    assert str(error) == sentence


def test_what_may_be_tried_again_says_so() -> None:
    assert {type(error).__name__ for error in SPECIMENS if error.retryable} == {
        "LeaseStoreUnavailable",
        "ResultTimeout",
        "StoreUnavailable",
    }
