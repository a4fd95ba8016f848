"""What cannot be a tool is refused at import, in a sentence that names the function and the culprit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import OnCrashName, tool

if TYPE_CHECKING:
    from decimal import Decimal


def unannotated(order_id) -> None: ...  # type: ignore[no-untyped-def]  # the missing annotation is the case


def many(*order_ids: str) -> None: ...


def any_names(**order_ids: str) -> None: ...


def positional(order_id: str, /) -> None: ...


def unresolved(order_id: Decimal) -> None: ...


def no_schema(order_id: threading.Thread) -> None: ...


def inner_no_schema(order_id: list[threading.Thread]) -> None: ...


def function_wanted(order_id: Callable[[], int]) -> None: ...


def optional_context(order_id: ToolContext | None) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (unannotated, "has no annotation"),
        (positional, "is positional-only"),
        (unresolved, "cannot be resolved (name 'Decimal' is not defined)"),
        (no_schema, "is annotated Thread, which gives no JSON schema"),
        (inner_no_schema, "is annotated list[threading.Thread], which gives no JSON schema"),
        (function_wanted, "gives no JSON schema"),
        (optional_context, "or ToolContext alone for the context of the call"),
    ],
)
def test_a_parameter_without_a_schema_is_refused_by_name(function: Callable[..., object], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tool(function)
    sentence = str(caught.value)
    assert f"tool function {__name__}.{function.__name__}: " in sentence
    assert "parameter 'order_id'" in sentence
    assert problem in sentence


@pytest.mark.parametrize("function", [many, any_names])
def test_open_parameter_lists_are_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{function.__name__}: parameter 'order_ids' takes any"):
        tool(function)


def test_a_result_without_a_schema_is_refused() -> None:
    def start() -> threading.Thread:
        return threading.Thread()

    with pytest.raises(ConfigurationError, match=r"start: the result is annotated Thread, which gives no JSON schema"):
        tool(start)


def test_a_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Service\.look: a method cannot be a tool"):

        class Service:
            @tool
            def look(self, order_id: str) -> None: ...


@pytest.mark.parametrize("name", ["", "two words", "ü", "a" * 65, "a.b", "a\n"])
def test_a_name_that_no_provider_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"fine: the tool name .* must be 1 to 64"):

        @tool(name=name)
        def fine() -> None: ...


def test_a_lambda_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the tool name '<lambda>'"):
        tool(lambda: None)


@pytest.mark.parametrize("thing", ["search", print, int])
def test_what_is_not_a_function_is_refused(thing: object) -> None:
    with pytest.raises(ConfigurationError, match="@tool needs a function written with def"):
        tool(cast(Any, thing))


def test_a_tool_is_not_made_twice() -> None:
    @tool
    def once() -> None: ...

    with pytest.raises(ConfigurationError, match="not <tool once>"):
        tool(once)


def test_an_unknown_on_crash_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"fine: on_crash must be 'retry' or 'never', not 'sometimes'"):

        @tool(on_crash=cast(OnCrashName, "sometimes"))
        def fine() -> None: ...


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300, True, timedelta(0), "5"])
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    with pytest.raises(ConfigurationError, match=r"fine: timeout must be from 0\.001 to 31536000 seconds"):

        @tool(timeout=cast(float, timeout))
        def fine() -> None: ...
