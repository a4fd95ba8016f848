"""Canonical JSON: one spelling for one value, because replay keys, digests and stamps are made of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from lash_tasks.domain.codec import JsonValue, canonical, digest, parse, scrub
from tests.domain.json_values import broken_texts, json_values
from tests.domain.laws import law


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"é": "ü", "z": "😀"}, '{"z":"😀","é":"ü"}'.encode()),
        # By code point, not by UTF-16 unit: U+FFFD comes before an astral character.
        ({"\U0001f600": 1, "\ufffd": 2}, '{"\ufffd":2,"\U0001f600":1}'.encode()),
        ({"A": 1, "a": 2, "_": 3}, b'{"A":1,"_":3,"a":2}'),
        (1, b"1"),
        (1.0, b"1.0"),
        (10**30, b"1" + b"0" * 30),
        ('a\x00\n"\\', b'"a\\u0000\\n\\"\\\\"'),
        ("\u2028/", '"\u2028/"'.encode()),
        ({}, b"{}"),
    ],
)
def test_the_spelling_of_a_value_never_changes(value: JsonValue, spelling: bytes) -> None:
    assert canonical(value) == spelling


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical([value])


def test_what_json_cannot_carry_is_refused() -> None:
    with pytest.raises(TypeError):
        canonical({"when": object()})


def test_a_digest_is_sha256_of_the_spelling() -> None:
    # printf '{"a":1,"b":2}' | sha256sum
    assert digest({"b": 2, "a": 1}) == "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"


@law
@given(json_values())
def test_canonical_json_reads_back_as_the_same_value(value: JsonValue) -> None:
    assert canonical(parse(canonical(value))) == canonical(value)


@law
@given(json_values())
def test_the_spelling_does_not_depend_on_the_order_of_keys(value: JsonValue) -> None:
    assert canonical(_reversed(value)) == canonical(value)


@law
@given(json_values(broken_texts))
def test_what_is_scrubbed_is_valid_unicode_and_scrubbed_once_is_enough(value: JsonValue) -> None:
    clean = scrub(value)

    assert canonical(clean).decode("utf-8") == json.dumps(
        clean, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert scrub(clean) == clean


def test_scrubbing_leaves_valid_text_as_it_is() -> None:
    assert scrub({"😀": ["é", "\x00", 1]}) == {"😀": ["é", "\x00", 1]}
    assert scrub({"a\ud800": ["\udfff"]}) == {"a\ufffd": ["\ufffd"]}


def test_a_value_that_no_layer_could_store_is_refused() -> None:
    """Serialising ends at some 250 levels: a tool result that passed and could not be committed ended its session."""
    deep: JsonValue = 1
    for _ in range(200):
        deep = [deep]
    assert scrub(deep) == deep
    with pytest.raises(ValueError, match="nested too deeply"):
        scrub([deep])


def _reversed(value: JsonValue) -> JsonValue:
    match value:
        case dict():
            return {key: _reversed(value[key]) for key in reversed(value)}
        case list():
            return [_reversed(item) for item in value]
        case _:
            return value
