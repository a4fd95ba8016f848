"""What a model writes as the arguments of a call is read as a JSON object, or refused with a reason it can act on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from lash_tasks.domain.codec import JsonObject, canonical, decode, encode, parse_object
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import ToolCallRecord, ToolOutcome
from tests.domain.json_values import arguments, json_objects, nested
from tests.domain.laws import law


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_no_arguments_are_an_empty_object(text: str) -> None:
    assert parse_object(text) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("{'a': 1}", "is not valid JSON"),
        ('{"a": 1} trailing', "is not valid JSON"),
        ('{"a": "\x00"}', "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('"{}"', "is not a JSON object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": [Infinity]}', "Infinity is not JSON"),
        ('{"a": 1e999}', "a number is too large"),
        ('{"a": -1e999}', "a number is too large"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        (nested(101), "is nested too deeply"),
        (nested(950), "is nested too deeply"),
        (nested(100_000), "is nested too deeply"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_object(text)


def test_a_reason_is_short_whatever_the_arguments_are() -> None:
    for text in ("9" * 100_000, '{"a": ' + "9" * 100_000 + "}", '{"a": 9e' + "9" * 100_000 + "}", "[" * 100_000):
        with pytest.raises(ValueError, match="is ") as refused:
            parse_object(text)
        assert len(str(refused.value)) < 250


def test_lone_surrogates_become_replacement_characters() -> None:
    assert parse_object('{"\\ud800": ["\\udfff", "\\ud83d\\ude00"]}') == {"\ufffd": ["\ufffd", "😀"]}


def test_a_number_too_large_for_a_float_does_not_reach_the_journal() -> None:
    """`1e999` was read as infinity, which canonical JSON cannot spell: the turn failed on every attempt."""
    with pytest.raises(ValueError, match="too large"):
        parse_object('{"cents": 1e999}')
    assert parse_object('{"cents": 1e308}') == {"cents": 1e308}


@law
@given(json_objects())
def test_every_object_is_read_as_it_is(value: JsonObject) -> None:
    assert canonical(parse_object(json.dumps(value))) == canonical(value)


@law
@given(arguments)
def test_what_is_accepted_can_be_recorded_and_read_back(text: str) -> None:
    try:
        value = parse_object(text)
    except ValueError:
        return
    record = ToolCallRecord(CallId("a"), "t", value, ToolOutcome(ToolStatus.SUCCESS))
    stored = encode(tuple[ToolCallRecord, ...], (record,))

    assert encode(tuple[ToolCallRecord, ...], decode(tuple[ToolCallRecord, ...], stored)) == stored
    assert parse_object(canonical(value).decode()) == value
