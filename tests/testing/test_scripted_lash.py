"""An application runs on a script: in order, by the request, through failures, and to the script's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pydantic import BaseModel

from lash_tasks import Agent, Lash, ToolContext, tool
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.testing import Asked, Failure, ScriptedLash, ScriptExhausted, call, run_scripted
from tests.cli.calling import python

Start = Callable[..., ScriptedLash]


class Verdict(BaseModel):
    good: bool


@tool
def lookup_order(order_id: str) -> dict[str, str]:
    """Look an order up by its id."""
    return {"order_id": order_id, "state": "shipped"}


@tool
def customer(ctx: ToolContext) -> str:
    """Say who asks."""
    return f"{ctx.context} in {ctx.deps}"


@contextmanager
def real_database() -> Iterator[str]:
    yield "production"


@contextmanager
def fake_database() -> Iterator[str]:
    yield "a test"


lash = Lash(
    [
        Agent(
            "support",
            "openai:gpt-5-mini",
            fallbacks=["vllm:qwen"],
            instructions="Answer briefly.",
            tools=[lookup_order, customer],
        ),
        Agent("judge", "anthropic:claude", output_type=Verdict),
    ],
    deps=real_database,
)


def test_the_copy_keeps_all_that_the_application_was_given(scripted_lash: Start) -> None:
    points: list[CrashPoint] = []
    stage = scripted_lash(Lash([Agent("support", "openai:gpt")], reached=points.append), ["Hello."])
    stage.send("Hello")
    assert CrashPoint.AFTER_COMMIT in points


def test_replies_come_in_order_and_tools_run_as_they_are(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, [call("lookup_order", order_id="12"), "It has shipped."])
    turn = stage.send("Where is order 12?", agent="support")

    assert (turn.ok, turn.text) == (True, "It has shipped.")
    assert [(one.tool, one.arguments) for one in turn.tool_calls] == [("lookup_order", {"order_id": "12"})]
    first, second = stage.requests
    assert (first.model, first.agent, first.system) == ("openai:gpt-5-mini", "support", "Answer briefly.")
    assert (first.text, first.tools) == ("Where is order 12?", ("lookup_order", "customer"))
    assert [result.text for result in second.tool_results] == ['{"order_id":"12","state":"shipped"}']
    assert stage.replies_left == 0


def test_a_session_goes_on_and_another_knows_nothing_of_it(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, lambda asked: f"heard {len(asked.request.messages)}")
    assert [stage.send("hello", agent="support").text for _ in range(2)] == ["heard 1", "heard 3"]
    assert stage.send("hello", agent="support", session="other").text == "heard 1"


def test_a_round_of_calls_is_one_reply(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, [[call("lookup_order", order_id="1"), call("lookup_order", order_id="2")], "Both."])
    assert len(stage.send("Both orders?", agent="support").tool_calls) == 2
    assert len(stage.requests) == 2


def test_options_and_deps_reach_the_tools(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, [call("customer"), "Hello."], deps=fake_database)
    stage.send("Who am I?", agent="support", context={"user": 42})
    assert stage.requests[1].tool_results[0].text == "{'user': 42} in a test"


def test_a_failure_ends_the_turn_or_brings_the_fallback(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, [Failure("no such key", code="auth"), Failure(retryable=True), "From the other."])
    turn = stage.send("hello", agent="support")
    assert not turn.ok
    assert "no such key" in turn.errors[0].message
    assert stage.send("hello", agent="support").text == "From the other."
    assert [asked.model for asked in stage.requests] == ["openai:gpt-5-mini", "openai:gpt-5-mini", "vllm:qwen"]


def test_an_output_type_is_checked_as_in_production(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, ["good", '{"good": true}'])
    assert stage.send("Is it?", agent="judge").output_as(Verdict) == Verdict(good=True)


def test_a_script_that_runs_out_says_what_was_asked(scripted_lash: Start) -> None:
    stage = scripted_lash(lash, [call("lookup_order", order_id="12")])
    with pytest.raises(
        ScriptExhausted, match=r"no reply for model call 2: openai:gpt-5-mini of agent 'support' was sent"
    ):
        stage.send("Where is order 12?", agent="support")


def test_an_assertion_in_a_script_fails_the_test(scripted_lash: Start) -> None:
    def answer(asked: Asked) -> str:
        if asked.text == "out":
            pytest.fail("never say that")
        assert asked.text == "hello"
        return "Hello."

    stage = scripted_lash(lash, answer)
    assert stage.send("hello", agent="support").text == "Hello."
    with pytest.raises(AssertionError, match="good day"):
        stage.send("good day", agent="support")
    with pytest.raises(pytest.fail.Exception, match="never say that"):
        stage.send("out", agent="support")


def test_what_no_send_has_raised_is_raised_at_the_end() -> None:
    with pytest.raises(ScriptExhausted), run_scripted(lash, []) as stage:  # noqa: PT012 the end is part of it
        receipt = stage.client.send("s", "hello", agent="support")
        assert "the script has no reply" in receipt.result(timeout=10).errors[0].message


@pytest.mark.parametrize("reply", [{"text": "hello"}, ["hello"], None, []], ids=repr)
def test_what_is_no_reply_is_named(scripted_lash: Start, reply: object) -> None:
    stage = scripted_lash(lash, [reply])
    with pytest.raises(TypeError, match="reply 1 of the script is"):
        stage.send("hello", agent="support")


def test_a_text_alone_is_no_script_and_of_several_agents_one_must_be_named(scripted_lash: Start) -> None:
    with pytest.raises(TypeError, match="put the text into a list"):
        scripted_lash(lash, "hello")
    with pytest.raises(ValueError, match=r"name the agent: .* the application has judge, support"):
        scripted_lash(lash, ["hello"]).send("hello")


def test_it_takes_nothing_from_the_environment_and_leaves_the_application_alone(
    scripted_lash: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASH_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("LASH_LEASE_TTL", "nonsense")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    one = Lash([Agent("support", "openai:gpt-5-mini")])
    assert scripted_lash(one, ["hello"]).send("hello").text == "hello"
    assert (one.embedded, one.providers) == (False, {})


def test_the_context_manager_needs_no_pytest() -> None:
    printed = python(
        "import sys; sys.modules['pytest'] = None\n"
        "from lash_tasks import Agent, Lash\n"
        "from lash_tasks.testing import run_scripted\n"
        "with run_scripted(Lash([Agent('support', 'openai:gpt-5-mini')]), ['It has shipped.']) as stage:\n"
        "    print(stage.send('Where is it?').text)"
    )
    assert printed.stdout == "It has shipped.\n", printed.stderr
