"""Whether a function of the application takes what it will be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def takes(function: Callable[..., object], count: int) -> bool:
    """Whether it can be called with `count` arguments. What has no signature, as some builtins, is believed to."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
