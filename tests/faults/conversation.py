"""The model of a run under faults: its answers follow from what a user said last, and it counts how often it is asked.

A text names what it wants done: `lookup`, `charge`, `both` at once, `twice` a lookup after a lookup, `plain` for an
answer without tools, or `frame` to go on with a task in another frame. The last answer of a turn is `answer: <text>`.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter

from lash_tasks.domain.codec import JsonObject
from tests.endpoint import DONE, ModelEndpoint, Reply, Seen, call_number, delta, last_user_text, text_reply, usage

WISHES = {
    "plain": ((),),
    "lookup": (("lookup",), ()),
    "charge": (("charge",), ()),
    "both": (("lookup", "charge"), ()),
    "twice": (("lookup",), ("lookup",), ()),
    "frame": (("hand_over",), ()),
}
"""The tools that each answer asks for, by the last word of the text."""


def task_of(text: str) -> str:
    """What is left to do of a text that is handed over to another frame."""
    return f"{text} task lookup"


def last_text(request: JsonObject) -> str:
    """What a user said last; providers' wires may join messages that follow one another."""
    return last_user_text(request).split("\n\n")[-1]


class CountingEndpoint(ModelEndpoint):
    """Keeps counts and no requests. Each answer takes up to `longest_ms`, by what was asked."""

    def __init__(self, longest_ms: int) -> None:
        super().__init__(self._answer)
        self._longest_ms = longest_ms
        self._counting = threading.Lock()
        self._never = threading.Event()
        self.asked: Counter[tuple[str, int]] = Counter()
        self.doubled: list[str] = []
        """Texts that a request held more often than once."""

    def seen(self, request: Seen) -> None:
        texts = Counter(
            text
            for message in request.body["messages"]
            if message["role"] == "user"
            for text in last_user_text({"messages": [message]}).split("\n\n")
        )
        with self._counting:
            self.asked[(last_text(request.body), call_number(request.body))] += 1
            self.doubled += [text for text, times in texts.items() if times > 1]

    def _answer(self, request: JsonObject) -> Reply:
        text, number = last_text(request), call_number(request)
        self._never.wait(zlib.crc32(f"{text} {number}".encode()) % (self._longest_ms + 1) / 1000)
        steps = WISHES[text.rsplit(" ", 1)[-1]]
        tools = steps[number - 1] if number <= len(steps) else ()
        return tool_calls(text, number, tools) if tools else text_reply(f"answer: {text}")


def tool_calls(text: str, number: int, tools: tuple[str, ...]) -> Reply:
    calls = [
        {
            "index": at,
            "id": f"call_{number}_{at}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps({"text": text})},
        }
        for at, tool in enumerate(tools)
    ]
    return Reply((delta(tool_calls=calls), delta(finish_reason="tool_calls"), usage(10, 5), DONE))
