"""Identifiers: the names a caller may choose, and the derived ones, whose spelling stored journals depend on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.domain.ids import (
    BatchId,
    CallId,
    ReplayKey,
    SessionId,
    TurnId,
    blob_ref,
    effect_key,
    effect_scope,
    fence_scope,
    message_id,
    name_problem,
    queue_turn_id,
    tool_attempt_key,
    tool_idempotency_key,
    unique_call_ids,
)
from lash_tasks.domain.journal import EffectKind
from tests.domain.json_values import broken_texts
from tests.domain.laws import law

SESSION, TURN = SessionId("customer-7"), TurnId("queue:12ab")
ROUND = ReplayKey("customer-7:queue:12ab:3:0:tool_batch:3")


@pytest.mark.parametrize(
    ("kind", "effect_id", "key"),
    [
        (EffectKind.SYNC_EXECUTION_ENVIRONMENT, 1, "customer-7:queue:12ab:3:0:sync_execution_environment:1"),
        (EffectKind.LLM_CALL, 2, "customer-7:queue:12ab:3:0:llm_call:2"),
        (EffectKind.TOOL_BATCH, 3, "customer-7:queue:12ab:3:0:tool_batch:3"),
        (EffectKind.CHECKPOINT, 4, "customer-7:queue:12ab:3:0:checkpoint:4"),
    ],
)
def test_the_replay_key_of_a_turn_effect(kind: EffectKind, effect_id: int, key: str) -> None:
    assert effect_key(SESSION, TURN, 3, 0, kind.value, effect_id) == key


def test_the_replay_key_of_a_tool_attempt() -> None:
    assert tool_attempt_key(ROUND, 1, CallId("call_a")) == f"{ROUND}:child:1:call_a:attempt:1"
    assert tool_attempt_key(ROUND, 1, CallId("call_a"), 2) == f"{ROUND}:child:1:call_a:attempt:2"


def test_the_idempotency_key_of_a_call_is_the_same_for_every_attempt() -> None:
    # printf 'customer-7:queue:12ab:3:0:tool_batch:3:child:1:call_a' | sha256sum | head -c 40
    assert tool_idempotency_key(ROUND, 1, CallId("call_a")) == "lash-817c29029b9ab2043df9d30627158dee0b885f7b"
    assert tool_idempotency_key(ROUND, 2, CallId("call_a")) != tool_idempotency_key(ROUND, 1, CallId("call_a"))


def test_the_other_derived_names() -> None:
    assert fence_scope(SESSION) == "session:customer-7"
    assert effect_scope(SESSION, TURN) == "session:customer-7/queue:12ab"
    assert message_id(3, 0) == "m3.0"
    # printf 'b1,b2' | sha256sum
    assert queue_turn_id([BatchId("b1"), BatchId("b2")]) == "queue:05e662e0fdc8996c7ad69564"
    assert queue_turn_id([BatchId("b2"), BatchId("b1")]) != queue_turn_id([BatchId("b1"), BatchId("b2")])
    # printf '' | sha256sum
    assert blob_ref(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("name", ["customer-7", "a" * 200, "Kundin Ä/7 😀", "a:b"])
def test_a_caller_may_choose_almost_any_name(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "must not be empty"),
        (" \t", "must not be empty"),
        ("a" * 201, "is 201 characters and may be at most 200"),
        ("a\x00b", "must not contain control characters"),
        ("a\nb", "must not contain control characters"),
        ("a\x7fb", "must not contain control characters"),
        ("a\x85b", "must not contain control characters"),
        ("a\ud800b", "must not contain control characters"),
    ],
)
def test_a_name_that_cannot_be_used_has_its_reason(name: str, problem: str) -> None:
    assert name_problem(name) == problem


def test_plain_and_different_call_ids_stay_as_they_are() -> None:
    assert unique_call_ids(["call_1", "toolu_01:x.y", "a" * 64], frozenset()) == ("call_1", "toolu_01:x.y", "a" * 64)


def test_a_repeated_call_id_is_numbered() -> None:
    assert unique_call_ids(["a", "a", "b", "a"], frozenset()) == ("a", "a#2", "b", "a#3")
    assert unique_call_ids(["a#2", "a", "a"], frozenset()) == ("a#2", "a", "a#3")
    assert unique_call_ids(["a"], frozenset({"a", "a#2"})) == ("a#3",)


@pytest.mark.parametrize("odd", ["", " ", "a b", "a/b", "日本", "a\x00", "\ud800", "a" * 65])
def test_an_odd_call_id_becomes_a_digest_of_itself(odd: str) -> None:
    (plain,) = unique_call_ids([odd], frozenset())

    assert re.fullmatch(r"call_[0-9a-f]{24}", plain)
    assert unique_call_ids([odd], frozenset()) == (plain,)


raw_ids = st.one_of(
    st.sampled_from(["", "a", "b", "a#2", "a#3", "a" * 56, "a" * 64, "a" * 63 + "b", "a" * 65]), broken_texts
)


@law
@given(st.lists(raw_ids, max_size=12), st.frozensets(raw_ids, max_size=6))
def test_call_ids_are_unique_plain_and_reproducible(proposed: list[str], taken: frozenset[str]) -> None:
    ids = unique_call_ids(proposed, taken)

    assert len(ids) == len(proposed)
    assert len(set(ids) | taken) == len(ids) + len(taken)
    assert all(re.fullmatch(r"[A-Za-z0-9_.:#-]{1,64}", id_) for id_ in ids)
    assert ids == unique_call_ids(proposed, taken)


@law
@given(st.lists(raw_ids, max_size=12), st.integers(0, 12))
def test_a_call_id_depends_on_the_ids_before_it_alone(proposed: list[str], cut: int) -> None:
    first = unique_call_ids(proposed[:cut], frozenset())

    assert (*first, *unique_call_ids(proposed[cut:], frozenset(first))) == unique_call_ids(proposed, frozenset())
