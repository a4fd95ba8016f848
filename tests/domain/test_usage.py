"""Token usage adds up, and total counts nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.domain.codec import to_json
from lash_tasks.domain.usage import (
    NO_USAGE,
    PromptUsage,
    SessionUsageReport,
    TokenLedgerEntry,
    TokenUsage,
    UsageTotals,
    diff_token_ledger,
    diff_usage_reports,
    merge_ledger,
    prompt_usage,
    usage_report,
)
from lash_tasks.errors import InvalidInput
from tests.domain.laws import law

counts = st.integers(0, 10**9)
usages = st.builds(TokenUsage, counts, counts, counts, counts)
names = st.sampled_from(["turn", "child", "compaction"])
ledgers = st.lists(st.builds(TokenLedgerEntry, names, names, usages), max_size=8)


def entry(source: str, model: str, *tokens: int) -> TokenLedgerEntry:
    return TokenLedgerEntry(source, model, TokenUsage(*tokens))


LEDGER = (entry("turn", "m1", 10, 2, 3, 1), entry("observer", "m1", 7, 1, 0, 0), entry("turn", "m2", 20, 4, 5, 2))


def test_total_is_input_and_output() -> None:
    """Cached tokens are part of the input, reasoning is part of the output."""
    assert TokenUsage(10, 5, 8, 3).total_tokens == 15


def test_cached_tokens_alone_are_usage() -> None:
    assert TokenUsage(cached_input_tokens=1)
    assert TokenUsage(reasoning_tokens=1)
    assert not NO_USAGE


def test_the_names_of_the_counts() -> None:
    assert to_json(TokenUsage, TokenUsage(1, 2, 3, 4)) == {
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_input_tokens": 3,
        "reasoning_tokens": 4,
    }


@law
@given(usages, usages, usages)
def test_usage_adds_up_in_any_order(a: TokenUsage, b: TokenUsage, c: TokenUsage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + NO_USAGE == a
    assert (a + b).total_tokens == a.total_tokens + b.total_tokens
    assert bool(a + b) == (bool(a) or bool(b))


# ---------------------------------------------------------------- reports


@pytest.mark.shows("U1")
def test_a_report_sums_up_its_ledger() -> None:
    report = usage_report(LEDGER)

    assert report.entry_count == 3
    assert report.usage == UsageTotals(
        input_tokens=37,
        output_tokens=7,
        cached_input_tokens=8,
        reasoning_tokens=3,
        total_tokens=44,
        context_total_tokens=44,
        uncached_total_tokens=36,
    )
    assert {source: totals.total_tokens for source, totals in report.by_source.items()} == {"observer": 8, "turn": 36}
    assert {model: totals.total_tokens for model, totals in report.by_model.items()} == {"m1": 20, "m2": 24}
    assert report.by_source_model == (LEDGER[1], LEDGER[0], LEDGER[2])


@pytest.mark.shows("U1")
def test_a_ledger_that_excluded_cached_and_reasoning_tokens_has_the_same_totals_when_they_are_included() -> None:
    """Counted the other way, the same calls are 37 + 7 + 3 = 47 tokens, and 55 with the 8 from a cache."""
    included = [
        entry(row.source, row.model, tokens.input_tokens + tokens.cached_input_tokens)
        for row in LEDGER
        for tokens in [row.usage]
    ]
    answers = [
        entry(row.source, row.model, 0, tokens.output_tokens + tokens.reasoning_tokens, tokens.cached_input_tokens)
        for row in LEDGER
        for tokens in [row.usage]
    ]
    totals = usage_report([*included, *answers]).usage

    assert (totals.uncached_total_tokens, totals.context_total_tokens) == (47, 55)


def test_a_report_has_one_form_in_json() -> None:
    report = usage_report(LEDGER[:1], prompt_usage(LEDGER[0].usage))
    totals = {
        "input_tokens": 10,
        "output_tokens": 2,
        "cached_input_tokens": 3,
        "reasoning_tokens": 1,
        "total_tokens": 12,
        "context_total_tokens": 12,
        "uncached_total_tokens": 9,
    }
    assert to_json(SessionUsageReport, report) == {
        "entry_count": 1,
        "usage": totals,
        "by_source": {"turn": totals},
        "by_model": {"m1": totals},
        "by_source_model": [
            {"source": "turn", "model": "m1", "usage": to_json(TokenUsage, LEDGER[0].usage)},
        ],
        "last_prompt": {
            "prompt_context_tokens": 10,
            "input_tokens": 10,
            "cached_input_tokens": 3,
            "context_budget_tokens": 12,
        },
        "children_usage": [],
    }


@pytest.mark.shows("U3")
def test_entries_of_one_source_and_model_are_one_in_the_order_in_which_they_came() -> None:
    assert merge_ledger([*LEDGER, entry("turn", "m1", 1, 1)]) == (entry("turn", "m1", 11, 3, 3, 1), *LEDGER[1:])


@pytest.mark.shows("U3")
def test_one_count_that_is_not_zero_keeps_an_entry() -> None:
    kept = [entry("turn", f"m{place}", *[0] * place, 1) for place in range(4)]
    assert merge_ledger([*kept, entry("turn", "nothing")]) == tuple(kept)


@pytest.mark.shows("U2")
def test_the_difference_of_two_ledgers_is_sorted_and_leaves_out_what_did_not_change() -> None:
    before, after = usage_report(LEDGER[:1]), usage_report([LEDGER[2], LEDGER[0], LEDGER[1]])

    assert diff_usage_reports(before, after) == (LEDGER[1], LEDGER[2])
    assert diff_token_ledger(LEDGER, LEDGER) == ()


@pytest.mark.shows("U2")
@pytest.mark.parametrize("later", [[], [entry("turn", "m1", 10, 1, 3, 1)], [entry("turn", "m1", 99, 2, 2, 1)]])
def test_a_decrease_is_refused_by_source_and_model(later: list[TokenLedgerEntry]) -> None:
    with pytest.raises(InvalidInput, match="after: has fewer tokens of source 'turn' and model 'm1' than before"):
        diff_token_ledger(LEDGER[:1], later)


@law
@given(ledgers, ledgers)
def test_a_difference_is_what_came_between(before: list[TokenLedgerEntry], more: list[TokenLedgerEntry]) -> None:
    after = [*before, *more]
    assert usage_report(diff_token_ledger(before, after)) == usage_report(more)


@pytest.mark.shows("U7")
@pytest.mark.parametrize(
    ("last", "included", "wanted"),
    [
        pytest.param(TokenUsage(100, 7, 80), True, PromptUsage(100, 100, 80, 107), id="input includes cached"),
        pytest.param(TokenUsage(20, 7, 80), False, PromptUsage(100, 20, 80, 107), id="input excludes cached"),
        pytest.param(TokenUsage(-5, 7, -1), True, PromptUsage(0, 0, 0, 7), id="negative counts are none"),
        pytest.param(TokenUsage(0, 0, 9), False, PromptUsage(9, 0, 9, 9), id="all of it from a cache"),
        pytest.param(TokenUsage(reasoning_tokens=4), True, None, id="nothing was counted"),
        pytest.param(TokenUsage(-1, -1, -1), False, None, id="nothing but nonsense"),
    ],
)
def test_the_size_of_a_prompt(last: TokenUsage, included: bool, wanted: PromptUsage | None) -> None:
    assert prompt_usage(last, input_includes_cached=included) == wanted
