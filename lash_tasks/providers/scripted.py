"""The `scripted` provider: a deterministic model in this process, for the demo, the documentation and tests.

`scripted:echo` answers "You said: …". Where the user's text says `call <tool>`, perhaps followed by JSON arguments,
and that tool is offered, it calls the tool instead, and answers the results by quoting them. `[slow 5]` in the
user's text makes the call that reads it take five seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from lash_tasks.domain.codec import digest, to_json
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelMessage, ModelRequest, ModelResponse, TerminalReason
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure

Rule = Callable[[ModelRequest], ModelResponse]
"""A pure function of the request. It may raise ProviderFailure; its answer gets a usage if it has none."""

PIECE_CHARACTERS = 8
_CALL = re.compile(r"\bcall ([A-Za-z0-9_-]+)[ \t]*")
_SLOW = re.compile(r"\[slow (\d+(?:\.\d+)?)\]")


def echo(request: ModelRequest) -> ModelResponse:
    """Call the tools that the user's text names, quote what they returned, or repeat what the user said."""
    results = [part for part in _last_parts(request) if isinstance(part, ToolResultPart)]
    if results:
        text = "\n".join(f"{result.tool} returned: {result.text}" for result in results)
        return ModelResponse((TextPart(text),), terminal_reason=TerminalReason.STOP)
    said = last_user_text(request)
    calls = tuple(_calls(said, request))
    if calls:
        return ModelResponse(calls, terminal_reason=TerminalReason.TOOL_USE)
    return ModelResponse((TextPart(f"You said: {said}"),), terminal_reason=TerminalReason.STOP)


RULES: Mapping[str, Rule] = {"echo": echo}


class ScriptedProvider:
    """A Provider whose models are rules. Streams in small pieces; `piece_seconds` paces them."""

    def __init__(self, rules: Mapping[str, Rule] = RULES, *, piece_seconds: float = 0.0) -> None:
        self._rules = rules
        self._piece_seconds = piece_seconds

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        interrupt.check()
        rule = self._rules.get(call.model)
        if rule is None:
            known = ", ".join(sorted(self._rules))
            raise ProviderFailure(
                f"there is no scripted model {call.model!r}; known models: {known}",
                code="model_not_found",
                kind="unsupported",
            )
        response = rule(call.request)
        pieces = list(_pieces(response))
        pause = max(self._piece_seconds, _slow_seconds(call.request) / max(len(pieces), 1))
        left = call.timeout_seconds
        for piece in pieces or (TextPart(""),):
            if interrupt.wait(min(pause, left)):
                interrupt.check()
            left -= pause
            if left < 0:
                raise ProviderFailure("the model call used up its time", code="timeout", kind="timeout", retryable=True)
            if isinstance(piece, ReasoningPart):
                stream.reasoning(piece.text)
            elif piece.text:
                stream.text(piece.text)
        usage = response.usage or TokenUsage(_tokens(call.request), _tokens(response))
        return ModelResponse(response.parts, usage, response.terminal_reason, response.diagnostic)

    def close(self) -> None:
        return


def last_user_text(request: ModelRequest) -> str:
    """What the user said last, tool results aside."""
    for message in reversed(request.messages):
        text = _text(message)
        if message.role is Role.USER and text:
            return text
    return ""


def _last_parts(request: ModelRequest) -> tuple[object, ...]:
    return request.messages[-1].parts if request.messages else ()


def _text(message: ModelMessage) -> str:
    return "\n\n".join(part.text for part in message.parts if isinstance(part, TextPart))


def _calls(said: str, request: ModelRequest) -> Iterator[ToolCallPart]:
    offered = {spec.name for spec in request.tools}
    seed = digest(to_json(ModelRequest, request))[:16]
    index = position = 0
    while match := _CALL.search(said, position):
        position = match.end()
        if match[1] in offered:
            arguments = _arguments(said[position:])
            position += len(arguments)
            yield ToolCallPart(CallId(f"call_{seed}_{index}"), match[1], arguments or "{}")
            index += 1


def _arguments(rest: str) -> str:
    """The JSON object that `rest` begins with, the rest of its line if that is broken, nothing if there is none."""
    if not rest.startswith("{"):
        return ""
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return rest.splitlines()[0]
    return rest[:end]


def _slow_seconds(request: ModelRequest) -> float:
    if any(isinstance(part, ToolResultPart) for part in _last_parts(request)):
        return 0.0
    match = _SLOW.search(last_user_text(request))
    return float(match[1]) if match else 0.0


def _pieces(response: ModelResponse) -> Iterator[TextPart | ReasoningPart]:
    for part in response.parts:
        match part:
            case TextPart(text=text):
                for start in range(0, len(text), PIECE_CHARACTERS):
                    yield TextPart(text[start : start + PIECE_CHARACTERS])
            case ReasoningPart(text=text):
                for start in range(0, len(text), PIECE_CHARACTERS):
                    yield ReasoningPart(text[start : start + PIECE_CHARACTERS])
            case ToolCallPart():
                continue


def _tokens(value: ModelRequest | ModelResponse) -> int:
    """A quarter of the characters, as a count that depends on nothing else."""
    parts = value.parts if isinstance(value, ModelResponse) else [p for m in value.messages for p in m.parts]
    characters = len(value.system) if isinstance(value, ModelRequest) else 0
    for part in parts:
        match part:
            case TextPart(text=text) | ReasoningPart(text=text) | ToolResultPart(text=text):
                characters += len(text)
            case ToolCallPart(arguments=arguments):
                characters += len(arguments)
    return max(1, characters // 4)
