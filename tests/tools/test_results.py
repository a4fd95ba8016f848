"""A result is recorded as plain JSON data, or refused in a sentence that names the tool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from math import inf, nan
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, computed_field

from lash_tasks.domain.codec import JsonValue
from lash_tasks.tools.definition import tool
from lash_tasks.tools.results import InvalidResult, result_json


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Order(BaseModel):
    id: UUID
    placed: date
    total: Decimal


class Measured(BaseModel):
    value: Any


class Broken(BaseModel):
    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def total(self) -> int:
        raise RuntimeError("no total")


ORDER = Order(id=UUID(int=1), placed=date(2026, 11, 22), total=Decimal("1.50"))
ORDER_JSON = {"id": str(UUID(int=1)), "placed": "2026-11-22", "total": "1.50"}


@tool
def anything():  # type: ignore[no-untyped-def]  # a tool without a result annotation
    ...


@tool
def orders() -> list[Order]:
    return [ORDER]


@tool
def measured() -> list[Measured]:
    return []


@tool
def declared_text() -> str:
    return ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("text", "text"),
        ({"a": (1, 2.5, True, None)}, {"a": [1, 2.5, True, None]}),
        (ORDER, ORDER_JSON),
        ([Point(1)], [{"x": 1}]),
        ({Colour.RED: Colour.RED}, {"red": "red"}),
        (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22T00:00:00Z"),
        ({1: 2**80}, {"1": 2**80}),
        ("a\ud83d", "a\ufffd"),
        ({"k\ud83d": ["a\ud83d"]}, {"k\ufffd": ["a\ufffd"]}),
    ],
)
def test_a_value_is_written_by_its_own_type(value: object, expected: JsonValue) -> None:
    assert result_json(anything, value) == expected


def test_a_value_is_written_by_the_result_annotation() -> None:
    assert result_json(orders, [ORDER]) == [ORDER_JSON]


def test_a_value_that_breaks_its_annotation_is_written_all_the_same() -> None:
    assert result_json(declared_text, {"day": date(2026, 11, 22)}) == {"day": "2026-11-22"}


def test_a_nan_behind_any_is_refused_and_not_made_null() -> None:
    for name, value in ((measured, [Measured(value=nan)]), (declared_text, {"a": nan})):
        with pytest.raises(InvalidResult, match="not JSON compliant"):
            result_json(name, value)


def circle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def deep() -> list[Any]:
    items: list[Any] = []
    for _ in range(100_000):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: nan, "not JSON compliant"),
        (lambda: {"a": [inf]}, "not JSON compliant"),
        (threading.Lock, "Unable to serialize unknown type"),
        (lambda: b"text", "bytes"),
        (lambda: {"a": b"\xff"}, "UnicodeDecodeError"),
        (circle, "Circular reference"),
        (deep, "Error"),
        (Broken, "no total"),
    ],
)
def test_what_json_cannot_carry_is_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(InvalidResult) as caught:
        result_json(anything, make())
    assert str(caught.value).startswith("tool anything returned ")
    assert problem in str(caught.value)


def test_a_result_over_the_limit_is_refused() -> None:
    assert result_json(anything, "é" * 9, max_bytes=20) == "é" * 9
    with pytest.raises(InvalidResult, match="tool anything returned 22 bytes of JSON and may return at most 20"):
        result_json(anything, "é" * 10, max_bytes=20)
    with pytest.raises(InvalidResult, match="may return at most 1048576"):
        result_json(anything, "x" * (1024 * 1024))
