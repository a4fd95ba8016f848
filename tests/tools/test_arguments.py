"""A model's arguments become what the function's annotations promise, or one message that says what to correct."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from lash_tasks.domain.codec import JsonObject
from lash_tasks.tools.arguments import InvalidArguments, validate_arguments
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import tool


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    corner: tuple[int, int]


@tool
def order(
    count: int,
    colour: Colour,
    points: list[Point],
    ctx: ToolContext,
    day: date | None = None,
    price: Decimal = Decimal(1),
) -> None: ...


@tool
def strict(value: Strict) -> None: ...


@tool
def echo(text: str = "none", copy: int = 0, p0: int = 0, model_config: int = 0, _private: int = 0) -> None: ...


@tool
def defaulted(tags: Annotated[list[str], Field(description="d")] = ["x"]) -> None: ...  # noqa: B006 - the case


def problems(arguments: JsonObject) -> str:
    with pytest.raises(InvalidArguments) as caught:
        validate_arguments(order, arguments)
    return str(caught.value)


def test_values_arrive_as_their_types() -> None:
    arguments = {"count": 2, "colour": "red", "points": [{"x": 1, "y": 2}], "day": "2026-11-22", "price": "1.50"}
    assert validate_arguments(order, arguments) == {
        "count": 2,
        "colour": Colour.RED,
        "points": [Point(1, 2)],
        "day": date(2026, 11, 22),
        "price": Decimal("1.50"),
    }


def test_a_strict_model_reads_the_json_forms_of_its_types() -> None:
    kwargs = validate_arguments(strict, {"value": {"day": "2026-11-22", "corner": [1, 2]}})
    assert kwargs == {"value": Strict(day=date(2026, 11, 22), corner=(1, 2))}


def test_parameters_may_have_any_name() -> None:
    wanted = {"text": "a", "copy": 1, "p0": 2, "model_config": 3, "_private": 4}
    assert validate_arguments(echo, wanted) == wanted


def test_a_mutable_default_is_not_shared_between_calls() -> None:
    first = validate_arguments(defaulted, {})["tags"]
    assert isinstance(first, list)
    first.append("y")
    assert validate_arguments(defaulted, {}) == {"tags": ["x"]}


def test_every_problem_is_listed_with_its_path() -> None:
    message = problems({"count": "two", "colour": "blue", "points": [{"x": 1, "y": 2}, {"x": 1}], "size": 3})
    assert message.splitlines() == [
        "the arguments of order are not valid; correct them and call again:",
        "- count: Input should be a valid integer, unable to parse string as an integer (got 'two')",
        "- colour: Input should be 'red' (got 'blue')",
        "- points.1.y: Field required",
        "- size: Extra inputs are not permitted",
    ]


def test_the_hidden_parameter_cannot_be_given() -> None:
    assert "- ctx: Extra inputs are not permitted" in problems({"count": 1, "colour": "red", "points": [], "ctx": {}})


def test_long_values_and_long_lists_of_problems_are_cut() -> None:
    message = problems({"count": "9" * 5000 + "x", "colour": "red", "points": [{}] * 500, "k" * 5000: 1})
    assert "9" * 100 not in message
    assert "9" * 98 in message
    assert "k" * 101 not in message
    assert len(message.splitlines()) == 22
    assert message.endswith("more")
    assert len(message) < 5000


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidArguments, match="the arguments of echo are not JSON"):
        validate_arguments(echo, {"copy": float("nan")})


def test_lone_surrogates_are_replaced() -> None:
    assert validate_arguments(echo, {"text": "a\ud83d"})["text"] == "a\ufffd"
