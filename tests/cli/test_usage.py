"""`lash-tasks usage`: tokens by source and model, for a program and for a person."""

from __future__ import annotations

from lash_tasks.domain.ids import ReplayKey, SessionId
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from tests.cli.conftest import Command
from tests.scene import SESSION, Scene


def answer(scene: Scene, session: str, usage: TokenUsage) -> None:
    scene.send(session_id=session)
    entry = UsageEntry(ReplayKey("llm:1"), "turn", "openai:gpt-5-mini", usage)
    scene.commit(scene.open(SessionId(session)), usage=(entry,))


def test_tokens_of_all_sessions_or_of_one(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, SESSION, TokenUsage(30, 7, 20, 2))
    answer(scene, "another", TokenUsage(100, 1))

    expected = {
        "source": "turn",
        "model": "openai:gpt-5-mini",
        "calls": 1,
        "input_tokens": 30,
        "output_tokens": 7,
        "cached_input_tokens": 20,
        "reasoning_tokens": 2,
        "total_tokens": 37,
        "context_total_tokens": 37,
        "uncached_total_tokens": 17,
    }
    assert lash_tasks("usage", "--session", SESSION, "--json").document == expected
    total = lash_tasks("usage", "--json").document
    assert (total["calls"], total["total_tokens"]) == (2, 138)


def test_since_counts_from_a_time_on(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, SESSION, TokenUsage(30, 7))
    assert lash_tasks("usage", "--since", "2001-01-01", "--json").document["calls"] == 1
    assert lash_tasks("usage", "--since", "2999-01-01T00:00:00+00:00", "--json").lines == []
    assert lash_tasks("usage", "--since", "yesterday", "--json").error["field"] == "since"


def test_for_a_person_it_is_a_table_and_says_when_there_is_nothing(scene: Scene, lash_tasks: Command) -> None:
    assert lash_tasks("usage").stdout == "no tokens were counted\n"
    answer(scene, SESSION, TokenUsage(30, 7))
    head, row = lash_tasks("usage").stdout.splitlines()
    assert head.split() == ["source", "model", "calls", "input", "tokens", "output", "tokens", "total", "tokens"]
    assert row.split() == ["turn", "openai:gpt-5-mini", "1", "30", "7", "37"]


def test_a_report_of_one_session_is_one_document(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, SESSION, TokenUsage(30, 7, 20, 2))

    report = lash_tasks("usage", "--session", SESSION, "--report", "--json").document
    assert (report["entry_count"], report["usage"]["total_tokens"]) == (1, 37)
    assert report["by_source"] == {"turn": report["usage"]}
    assert report["by_model"] == {"openai:gpt-5-mini": report["usage"]}
    assert [row["source"] for row in report["by_source_model"]] == ["turn"]
    assert report["last_prompt"]["context_budget_tokens"] == 37

    assert lash_tasks("usage", "--report", "--json").error["field"] == "report"


def test_a_report_for_a_person_is_a_table_with_its_total(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, SESSION, TokenUsage(30, 7, 20, 2))
    lash_tasks("sessions", "create", "child", "--parent", SESSION, "--usage-source", "research")
    answer(scene, "child", TokenUsage(100, 1))

    lines = lash_tasks("usage", "--session", SESSION, "--report").stdout.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["research", "openai:gpt-5-mini", "100", "1", "0", "101"],
        ["turn", "openai:gpt-5-mini", "30", "7", "20", "37"],
        ["total", "130", "8", "20", "138"],
    ]
    assert lines[4:] == ["of these its children used 101", "its last prompt had 30 tokens, 20 of them cached"]


def test_a_report_of_a_session_that_used_nothing_says_so(scene: Scene, lash_tasks: Command) -> None:
    lash_tasks("sessions", "create", "new")
    assert lash_tasks("usage", "--session", "new", "--report").stdout == "no tokens were counted\n"
