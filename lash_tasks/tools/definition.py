"""`@tool`: a function that a model may call."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, Literal, ParamSpec, TypeVar, overload

from lash_tasks.domain.agents import OnCrash, ToolSpec
from lash_tasks.domain.models import LONGEST_SECONDS
from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.schema import Signature, function_label, read_signature

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
OnCrashName = Literal["retry", "never"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tool(Generic[P, R_co]):
    """A function with what the model and the runtime must know about it; calling it calls the function."""

    spec: ToolSpec
    signature: Signature

    def __init__(self, function: Callable[P, R_co], spec: ToolSpec, signature: Signature) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.spec = spec
        self.signature = signature

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name}>"

    @property
    def name(self) -> str:
        return self.spec.name


@overload
def tool(function: Callable[P, R_co], /) -> Tool[P, R_co]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    on_crash: OnCrashName = "retry",
    timeout: float | timedelta | None = None,
) -> Callable[[Callable[P, R_co]], Tool[P, R_co]]: ...


def tool(
    function: Callable[P, R_co] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    on_crash: OnCrashName = "retry",
    timeout: float | timedelta | None = None,
) -> Tool[P, R_co] | Callable[[Callable[P, R_co]], Tool[P, R_co]]:
    """Make a sync or async function a tool. Bare, or with options.

    The model sees the name, the docstring (or `description`) and the JSON schema of the parameters; parameters
    annotated ToolContext are filled in and hidden. `on_crash` says what a take-over does with an attempt that began
    and has no outcome: run it again, or never. `timeout` (seconds) bounds one attempt. What cannot be a tool is
    refused with a ConfigurationError that names the function and the parameter.
    """
    if function is None:
        return functools.partial(_make, name=name, description=description, on_crash=on_crash, timeout=timeout)
    return _make(function, name=name, description=description, on_crash=on_crash, timeout=timeout)


def _make(
    function: Callable[P, R_co],
    *,
    name: str | None,
    description: str | None,
    on_crash: str,
    timeout: float | timedelta | None,
) -> Tool[P, R_co]:
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f"@tool needs a function written with def, not {function!r}; "
            "give options by name, as in @tool(name='search')"
        )
    label = function_label(function)
    tool_name = function.__name__ if name is None else name
    if not isinstance(tool_name, str) or not _NAME.fullmatch(tool_name):
        raise ConfigurationError(
            f"{label}: the tool name {tool_name!r} must be 1 to 64 of the characters A-Z a-z 0-9 _ -; "
            "set @tool(name=...)"
        )
    if on_crash not in tuple(OnCrash):
        raise ConfigurationError(f"{label}: on_crash must be 'retry' or 'never', not {on_crash!r}")
    signature = read_signature(function)
    spec = ToolSpec(
        name=tool_name,
        description=inspect.cleandoc(description) if description is not None else inspect.getdoc(function) or "",
        parameters=signature.parameters,
        on_crash=OnCrash(on_crash),
        timeout_ms=_milliseconds(label, timeout),
    )
    return Tool(function, spec, signature)


def _milliseconds(label: str, timeout: float | timedelta | None) -> int | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.001 <= seconds <= LONGEST_SECONDS:
        raise ConfigurationError(
            f"{label}: timeout must be from 0.001 to {LONGEST_SECONDS} seconds, or None, not {timeout!r}"
        )
    return round(seconds * 1000)
