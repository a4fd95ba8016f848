"""Which error codes a test brings about: those that it is marked with, and those that really came up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from lash_tasks.domain.turns import ToolFailure, TurnIssue
from lash_tasks.errors import LashError
from lash_tasks.ports import ProviderFailure

CODES_NOT_YET: set[str] = set()
"""Codes that no test is marked with yet; one that is stands here no more."""


@contextmanager
def codes_that_come_up() -> Iterator[set[str]]:
    """The codes of all errors, issues and failures of tools and providers that are made inside, in this process."""
    seen: set[str] = set()

    def noting(kind: type[TurnIssue] | type[ToolFailure] | type[ProviderFailure]) -> Any:
        plain = kind.__init__

        @wraps(plain)
        def made(self: TurnIssue | ToolFailure | ProviderFailure, *args: object, **fields: object) -> None:
            plain(self, *args, **fields)  # type: ignore[arg-type]  # whatever it was called with
            seen.add(str(self.code))

        return made

    def new(kind: type[LashError], *args: object, **_fields: object) -> LashError:
        seen.add(str(getattr(kind, "code", "")))
        return Exception.__new__(kind, *args)

    with (
        patch.object(LashError, "__new__", new),
        patch.object(TurnIssue, "__init__", noting(TurnIssue)),
        patch.object(ToolFailure, "__init__", noting(ToolFailure)),
        patch.object(ProviderFailure, "__init__", noting(ProviderFailure)),
    ):
        yield seen
