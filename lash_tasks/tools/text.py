"""Error text made fit to be stored and sent: valid Unicode, bounded length."""

from __future__ import annotations

from lash_tasks.domain.codec import scrub


def cut(text: str, limit: int) -> str:
    """`text`, at most `limit` characters of it; an ellipsis shows that something is missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def describe(error: BaseException, limit: int = 2000) -> str:
    """`Type: text` of an exception, the text cut at `limit`, even where its own `str` fails."""
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be read"
    name = type(error).__name__
    return f"{name}: {scrub(cut(text, limit))}" if text else name
