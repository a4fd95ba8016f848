"""Words and keys stay where they belong: a user's words in the transcript and its journal, a key with its provider."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from lash_tasks import ModelOptions, TurnContext, tool
from lash_tasks.domain.codec import canonical, to_json
from lash_tasks.domain.policies import policy_of, stored_spec
from lash_tasks.errors import InvalidInput
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.sql import tables
from tests.endpoint import ModelEndpoint, Reply, converse, error_reply, last_user_text
from tests.turns.doubles import LiveRecorder
from tests.turns.stage import Death, Stage, agent
from tests.turns.test_commands import order

KEY = "sk-test-sentinel-key"
WORDS = "sentinel-words-of-a-user"
CONTEXT = "sentinel-of-a-context"
OF_TEXT = {
    ("lash_batches", "payload"),
    ("lash_effects", "envelope"),
    ("lash_effects", "outcome"),
    ("lash_nodes", "message"),
    ("lash_turns", "result"),
}
"""Where a user's words belong."""


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def everything_in(records: list[logging.LogRecord]) -> str:
    """The records with all that a structured formatter may write of them."""
    formatter = logging.Formatter()
    return "\n".join(formatter.format(record) + repr(vars(record)) for record in records)


def places(stage: Stage, needle: str) -> Iterator[tuple[str, str]]:
    """The columns in which `needle` stands."""
    for table in tables.metadata.sorted_tables:
        for row in stage.rows(table):
            for column, value in row.items():
                stored = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                if needle.encode() in stored:
                    yield table.name, column


def gossip(request: dict[str, object]) -> Reply:
    """A server that quotes the key and the words in its refusal."""
    text = last_user_text(request)
    return error_reply(400, f"{KEY} may not say {text}", code="refused") if "refuse" in text else converse(request)


def test_in_turns_that_go_well_and_turns_that_do_not(stage: Stage, logged: pytest.LogCaptureFixture) -> None:
    live = LiveRecorder()

    @tool
    def lookup(text: str) -> str:
        """Look up."""
        return f"found {text}"

    def render(turn: TurnContext) -> str:
        return "Answer."

    with ModelEndpoint(gossip) as endpoint:
        stage.settings = stage.settings.model_copy(
            update={"openai_base_url": endpoint.base_url, "openai_api_key": SecretStr(KEY)}
        )
        stage.agents = [agent(lookup, model="openai:small", instructions=render)]
        for text, death in ((WORDS, CrashPoint.AFTER_PERFORM), (f"{WORDS} refuse", CrashPoint.AFTER_RECORD)):
            stage.send(text, context={"user": CONTEXT}, idempotency_key=f"key-{death}")
            stage.run(Death(death), wrap=lambda stores: replace(stores, live=live))
            stage.run_all(wrap=lambda stores: replace(stores, live=live))
        assert {seen.headers["authorization"] for seen in endpoint.requests} == {f"Bearer {KEY}"}

    assert [turn.ok for turn in stage.results()] == [True, False]
    shown = canonical([to_json(type(event), event) for event in live.events]).decode()
    assert WORDS in shown, "the answer quotes the words, and is streamed"
    log = everything_in(logged.records)
    assert "turn committed" in log
    assert set(places(stage, WORDS)) == OF_TEXT
    assert set(places(stage, CONTEXT)) == {("lash_batches", "payload")}
    assert set(places(stage, KEY)) == set()
    for secret in (KEY, WORDS, CONTEXT):
        assert secret not in log
    assert KEY not in shown
    assert CONTEXT not in shown
    assert KEY not in str(stage.results())


@pytest.mark.shows("S1")
def test_in_what_a_session_says_over_its_agent_and_in_the_policy_that_comes_of_it(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"openai_api_key": SecretStr(KEY)})
    stage.agents = [agent(model="openai:small", options=ModelOptions(temperature=0.5))]
    for field, spec in {
        "provider": {"provider": {"api_key": KEY}},
        "options.api_key": {"options": {"api_key": KEY}},
    }.items():
        with pytest.raises(InvalidInput) as refused:
            order(stage, "configure_session", spec=spec)
        assert refused.value.field == f"arguments.spec.{field}"
        assert KEY not in str(refused.value)
    order(stage, "configure_session", spec={"model": "openai:large", "options": {"max_output_tokens": 9}})
    stage.run_all()

    policy = policy_of(stage.agents[0].snapshot(), stored_spec(stage.rows(tables.sessions)[0]["spec"])).as_json()
    assert (policy["model"], policy["provider_id"]) == ("openai:large", "openai")
    assert policy["options"] == {"temperature": 0.5, "max_output_tokens": 9}
    assert policy.keys() == {
        "agent",
        "model",
        "provider_id",
        "max_turns",
        "instructions",
        "options",
        "tools",
        "orphaned_tools",
    }
    assert set(places(stage, KEY)) == set()


def test_words_in_a_row_that_cannot_be_read_are_not_logged(stage: Stage, logged: pytest.LogCaptureFixture) -> None:
    stage.send("hello")
    payload = canonical({"v": 1, "d": {"agent": "support", "parts": WORDS}})
    stage.execute("UPDATE lash_batches SET payload = :payload", payload=payload)
    with pytest.raises(ValueError, match="QueuedInput") as raised:
        stage.run()
    assert WORDS not in str(raised.value)
    assert WORDS not in everything_in(logged.records)
