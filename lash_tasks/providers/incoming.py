"""What every dialect does alike with what it reads: text that comes in pieces, and values that may have any shape."""

from __future__ import annotations

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.providers.failures import valid_unicode

_ABSURD = 2**40
"""A number of tokens that no call takes; sums of as many have to fit a column."""


class StreamedText:
    """Text that arrives in pieces. A character whose two surrogates come apart is held back until it is whole."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._held = ""

    def add(self, piece: str) -> str:
        """Take `piece`; returns what may be shown now."""
        piece = self._held + piece
        self._held = piece[-1] if piece and "\ud800" <= piece[-1] <= "\udbff" else ""
        shown = valid_unicode(piece[: len(piece) - len(self._held)])
        self._pieces.append(shown)
        return shown

    def whole(self) -> str:
        return "".join(self._pieces) + valid_unicode(self._held)


def as_object(value: JsonValue) -> JsonObject:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_objects(value: JsonValue) -> list[JsonObject]:
    """`value` if it is a list, with what is no object in it as an empty one; else an empty list."""
    return [as_object(item) for item in value] if isinstance(value, list) else []


def as_text(value: JsonValue) -> str:
    """`value` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def positive_counts(report: JsonObject) -> dict[str, int]:
    """Of a report of usage, what says something: it may come in parts, more than once, empty, and out of all bounds."""
    return {name: count for name, count in report.items() if type(count) is int and 0 < count < _ABSURD}
