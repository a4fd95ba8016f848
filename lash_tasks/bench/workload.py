"""The turn that is measured: user text → model → tool → model, and what the models of the endpoint are called."""

from __future__ import annotations

from typing import Any

AGENT = "bench"
"""Its model answers at once."""
DELAYED_AGENT = "bench-delayed"
"""Its model waits before each answer."""
HELD_AGENT = "bench-held"
"""Its model lets a first call hang where that was ordered, and else answers at once."""

DELAY_MS = 50
MODEL = "delay-0"
DELAYED_MODEL = f"delay-{DELAY_MS}"
HELD_MODEL = "held"

INSTRUCTIONS = "You answer questions about orders. Look an order up before you answer, and be brief."
TOOL = "lookup_order"
TOOL_DESCRIPTION = "Look an order up by its id."
ORDER = "12-4711"
USER_TEXT = (
    "Where is order 12-4711? It was sent a week ago and was to be here on Friday. "
    "I have asked the carrier twice, and nobody there could tell me where it is or when I can have it at last."
)
ANSWER_PIECES = (
    "The order ",
    "12-4711 was ",
    "shipped on ",
    "Monday and ",
    "is with the ",
    "carrier now. ",
    "It will be ",
    "there soon.",
)
ANSWER = "".join(ANSWER_PIECES)


def look_up(order_id: str) -> dict[str, str]:
    """What the tool does: next to nothing, because only what surrounds it is measured."""
    return {"order_id": order_id, "state": "shipped", "carrier": "post"}


def tool_schema() -> dict[str, Any]:
    """The tool as a model is told of it."""
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    return {"type": "function", "function": {"name": TOOL, "description": TOOL_DESCRIPTION, "parameters": parameters}}
