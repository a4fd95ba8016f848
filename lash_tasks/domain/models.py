"""What an application says about calling its models: the options of a call, and the limits of a provider."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from lash_tasks.domain.codec import JsonObject, canonical, parse, scrub
from lash_tasks.errors import ConfigurationError

LONGEST_SECONDS = 365 * 24 * 3600
"""A year: what any limit of time may be at most. Waits of the operating system have a bound of their own."""

REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
OURS = frozenset({"messages", "model", "stream", "stream_options", "system", "tools"})
"""Fields of a request that say what is asked, or how the answer is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model is asked. What is None is left to the server; a turn keeps the options it began with.

    `timeout` (seconds, or a timedelta) bounds one model call with all its retries. `extra` goes into the body of the
    request as it is, over everything but the conversation itself. A wrong value is a ConfigurationError.
    """

    temperature: float | None = None
    """Left out where the model takes none: Claude since 4.7, and before that beside its reasoning."""
    max_output_tokens: int | None = None
    """Reasoning included."""
    reasoning_effort: str | None = None
    timeout: float | timedelta | None = None
    extra: JsonObject | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            object.__setattr__(self, "temperature", _temperature(self.temperature))
        _check_count("ModelOptions", "max_output_tokens", self.max_output_tokens)
        if self.reasoning_effort is not None and self.reasoning_effort not in REASONING_EFFORTS:
            efforts = ", ".join(REASONING_EFFORTS)
            raise ConfigurationError(
                f"ModelOptions: reasoning_effort must be one of {efforts}, not {self.reasoning_effort!r}"
            )
        if self.timeout is not None:
            object.__setattr__(self, "timeout", _seconds(self.timeout))
        if self.extra is not None:
            object.__setattr__(self, "extra", _checked_extra(self.extra) or None)

    @property
    def timeout_seconds(self) -> float | None:
        return None if self.timeout is None else _seconds(self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all workers together may ask of one provider; None is no limit. A wrong value is a ConfigurationError."""

    concurrency: int | None = None
    """Model calls at one time."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            _check_count("Limits", name, getattr(self, name))


def _check_count(owner: str, name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"{owner}: {name} must be a whole number of at least 1, or None, not {value!r}")


def _temperature(value: object) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 2:
        raise ConfigurationError(f"ModelOptions: temperature must be a number from 0 to 2, or None, not {value!r}")
    return number


def _seconds(value: object) -> float:
    number = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if number is None or not 0.001 <= number <= LONGEST_SECONDS:
        raise ConfigurationError(
            f"ModelOptions: timeout must be from 0.001 to {LONGEST_SECONDS} seconds, or None, not {value!r}"
        )
    return number


def _number(value: object) -> float | None:
    """`value` as a float, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _checked_extra(extra: object) -> JsonObject:
    """A copy of `extra` that nobody can change under a snapshot."""
    if not isinstance(extra, dict) or not all(isinstance(name, str) and name for name in extra):
        raise ConfigurationError("ModelOptions: extra must be a dict from field names of the request to JSON values")
    ours = sorted(OURS & extra.keys())
    if ours:
        raise ConfigurationError(f"ModelOptions: extra must not hold {ours[0]!r}, which lash-tasks sets itself")
    try:
        copy: JsonObject = parse(canonical(scrub(extra)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"ModelOptions: extra must hold JSON values only ({error})") from None
    return copy


DEFAULT_OPTIONS = ModelOptions()
