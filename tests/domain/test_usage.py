"""Token usage adds up, and total counts nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.domain.codec import to_json
from lash_tasks.domain.usage import NO_USAGE, TokenUsage
from tests.domain.laws import law

counts = st.integers(0, 10**9)
usages = st.builds(TokenUsage, counts, counts, counts, counts)


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
