"""The schema that a model sees is read from the signature, whole and the same in every process."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from lash_tasks.domain.agents import OnCrash
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import CallId, SessionId, TurnId
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import Tool, tool
from tests.tools import eager_annotations


class Colour(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Address:
    street: str
    title: str | None = None


class Item(BaseModel):
    """One line of an order."""

    sku: str
    parts: list[Item] = []


class Unwritable:
    """A default that JSON cannot carry."""


@tool
def plain(order_id: str, count: int = 1, note: str | None = None) -> str:
    """Look it up."""
    return order_id + str(count) + str(note)


@tool
def rich(
    colour: Colour,
    day: date,
    address: Address,
    title: Annotated[int, Field(description="How many", ge=1)] = 2,
    schema: Literal["a", "b"] = "a",
) -> None: ...


@tool
def nested(items: list[Item]) -> None: ...


@tool
def search(query: Annotated[str, Field(description="What to look for")], ctx: ToolContext, limit: int = 10) -> None:
    """Search."""


@tool
def tagged(tags: set[str] = {"alpha", "beta", "gamma", "delta"}) -> None: ...  # noqa: B006 - the default is the point


@tool
def nothing() -> None: ...


COLOUR = {"enum": ["red", "green"], "type": "string"}
ADDRESS = {
    "additionalProperties": False,
    "properties": {
        "street": {"type": "string"},
        "title": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "required": ["street"],
    "type": "object",
}
ITEM = {
    "description": "One line of an order.",
    "properties": {
        "sku": {"type": "string"},
        "parts": {"default": [], "items": {"$ref": "#/$defs/Item"}, "type": "array"},
    },
    "required": ["sku"],
    "type": "object",
}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (
            plain,
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "order_id": {"type": "string"},
                    "count": {"type": "integer", "default": 1},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                },
                "required": ["order_id"],
            },
        ),
        (
            rich,
            {
                "$defs": {"Colour": COLOUR, "Address": ADDRESS},
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "colour": {"$ref": "#/$defs/Colour"},
                    "day": {"type": "string", "format": "date"},
                    "address": {"$ref": "#/$defs/Address"},
                    "title": {"type": "integer", "minimum": 1, "default": 2, "description": "How many"},
                    "schema": {"type": "string", "enum": ["a", "b"], "default": "a"},
                },
                "required": ["colour", "day", "address"],
            },
        ),
        (
            nested,
            {
                "$defs": {"Item": ITEM},
                "type": "object",
                "additionalProperties": False,
                "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}},
                "required": ["items"],
            },
        ),
        (nothing, {"type": "object", "additionalProperties": False, "properties": {}}),
    ],
    ids=lambda value: value.name if isinstance(value, Tool) else "",
)
def test_the_signature_gives_the_schema(subject: Tool[..., object], expected: JsonObject) -> None:
    assert subject.spec.parameters == expected


def test_annotations_that_are_text_give_the_same_schema() -> None:
    assert search.spec.parameters == eager_annotations.search.spec.parameters
    assert search.signature.hidden == eager_annotations.search.signature.hidden == ("ctx",)
    assert set(search.spec.parameters["properties"]) == {"query", "limit"}


def test_the_schema_is_the_same_in_every_process() -> None:
    """Sets have another order under another hash seed; the schema is hashed, so a turn's agent must not differ."""
    code = (
        "from tests.tools.test_schema import tagged; from lash_tasks.domain.codec import canonical;"
        "print(canonical(tagged.spec.parameters).decode())"
    )
    schemas = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(schemas) == 1
    assert tagged.spec.parameters["properties"]["tags"]["default"] == ["alpha", "beta", "delta", "gamma"]


def test_a_default_that_json_cannot_carry_is_left_out_and_still_used() -> None:
    default = Unwritable()

    @tool
    def keep(value: object = default) -> bool:
        return value is default

    assert keep.spec.parameters["properties"] == {"value": {}}
    assert keep()


def test_the_whole_docstring_is_the_description() -> None:
    @tool
    def documented() -> None:
        """Look it up.

        Ids look like this:
            A-1
        """

    @tool(description="Other words.")
    def described() -> None:
        """Look it up."""

    assert documented.spec.description == "Look it up.\n\nIds look like this:\n    A-1"
    assert described.spec.description == "Other words."
    assert nothing.spec.description == ""


def test_options_reach_the_spec() -> None:
    @tool(name="pay", on_crash="never", timeout=timedelta(seconds=1.5))
    def charge() -> None: ...

    assert (charge.spec.name, charge.spec.on_crash, charge.spec.timeout_ms) == ("pay", OnCrash.NEVER, 1500)
    assert (plain.spec.name, plain.spec.on_crash, plain.spec.timeout_ms) == ("plain", OnCrash.RETRY, None)
    assert tool(timeout=2)(plain.function).spec.timeout_ms == 2000


def test_a_tool_is_still_the_function() -> None:
    context = ToolContext(
        session_id=SessionId("s"), turn_id=TurnId("t"), call_id=CallId("c"), tool="search", idempotency_key="k"
    )
    assert plain("A", count=2) == "A2None"
    assert eager_annotations.search("q", context) == ["q", "search", "10"]
    assert plain.__doc__ == "Look it up."
    assert inspect.unwrap(plain) is plain.function
    assert not context.cancelled
