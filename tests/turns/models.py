"""Models for whole turns: scripted by the user's text, counting what they are asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure
from lash_tasks.providers.scripted import RULES, Rule, ScriptedProvider, last_user_text

Answer = ModelResponse | Exception


def says(*texts: str) -> ModelResponse:
    return ModelResponse(tuple(TextPart(text) for text in texts))


def calls(*calls: tuple[str, str]) -> ModelResponse:
    """One tool call per (tool, arguments as the model wrote them)."""
    return ModelResponse(
        tuple(ToolCallPart(CallId(f"call_{number}"), tool, arguments) for number, (tool, arguments) in enumerate(calls))
    )


def script(texts: Mapping[str, Sequence[Answer]]) -> Rule:
    """A rule that answers the calls of a turn one after another, by the user's text; other texts are echoed."""

    def rule(request: ModelRequest) -> ModelResponse:
        answers = texts.get(last_user_text(request))
        if answers is None:
            return RULES["echo"](request)
        answer = answers[call_number(request) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return rule


def call_number(request: ModelRequest) -> int:
    """Which model call since the user's last text this is, from 1."""
    number = 1
    for message in reversed(request.messages):
        if message.role is Role.USER and any(isinstance(part, TextPart) for part in message.parts):
            return number
        number += message.role is Role.ASSISTANT
    return number


def out_of_order(call: ModelCall, interrupt: Interrupt) -> None:
    """For `before`: the model `down` cannot answer, now or after its retries."""
    if call.model == "down":
        raise ProviderFailure("out of order", code="503", kind="http", retryable=True, status=503)


class Model:
    """A scripted model that counts what it is asked; `before` runs inside every call."""

    def __init__(self, rule: Rule = RULES["echo"], before: Callable[[ModelCall, Interrupt], object] | None = None):
        self._model = ScriptedProvider({"test": rule})
        self._before = before
        self._lock = threading.Lock()
        self.asked: Counter[tuple[str, bool]] = Counter()
        """How often, by the user's text and whether tool results were in."""
        self.requests: list[ModelRequest] = []

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        after_tools = any(isinstance(part, ToolResultPart) for part in call.request.messages[-1].parts)
        with self._lock:
            self.asked[last_user_text(call.request), after_tools] += 1
            self.requests.append(call.request)
        if self._before is not None:
            self._before(call, interrupt)
        return self._model.complete(call, stream, interrupt)

    def close(self) -> None:
        self._model.close()
