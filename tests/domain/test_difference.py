"""Where two JSON values differ, in words for the engineer who reads `effect_replay_mismatch`."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lash_tasks.domain.codec import JsonValue, canonical, difference
from tests.domain.json_values import json_values
from tests.domain.laws import law


@pytest.mark.parametrize(
    ("recorded", "requested", "lines"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["$.a.b: 1 -> 2"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["$.a[1]: 2 -> 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["$.a: [1] -> [1, 2]"]),
        ({"a": 1}, {"b": 1}, ["$.a: 1 -> (absent)", "$.b: (absent) -> 1"]),
        ({"a": None}, {}, ["$.a: null -> (absent)"]),
        ({"a": 1}, {"a": True}, ["$.a: 1 -> true"]),
        ({"a": 1}, {"a": 1.0}, ["$.a: 1 -> 1.0"]),
        ({"a": "1"}, {"a": 1}, ['$.a: "1" -> 1']),
        ({"a": {}}, {"a": []}, ["$.a: {} -> []"]),
        ("é", "e", ['$: "\\u00e9" -> "e"']),
    ],
)
def test_each_place_is_one_line(recorded: JsonValue, requested: JsonValue, lines: list[str]) -> None:
    assert difference(recorded, requested) == lines


def test_long_values_are_cut() -> None:
    (line,) = difference("a" * 1000, "b" * 1000)

    assert len(line) < 260
    assert line.count("...") == 2


@law
@given(json_values(), json_values() | st.none())
def test_values_differ_if_and_only_if_their_spellings_do(left: JsonValue, right: JsonValue) -> None:
    assume(b"-0.0" not in canonical([left, right]))  # spelled otherwise than 0.0, and equal to it
    assert difference(left, left) == []
    assert (difference(left, right) == []) == (canonical(left) == canonical(right))
