"""Chat Completions answers put together: from deltas as they stream, or from one buffered object (effects §14.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelResponse, ResponsePart, TerminalReason
from lash_tasks.ports import ModelStream
from lash_tasks.providers.failures import valid_unicode
from lash_tasks.providers.incoming import StreamedText, as_object, as_objects, as_text, positive_counts

FINISH_REASONS: dict[str, TerminalReason] = {
    "stop": TerminalReason.STOP,
    "tool_calls": TerminalReason.TOOL_USE,
    "function_call": TerminalReason.TOOL_USE,
    "length": TerminalReason.OUTPUT_LIMIT,
    "max_tokens": TerminalReason.OUTPUT_LIMIT,
    "content_filter": TerminalReason.CONTENT_FILTER,
    "safety": TerminalReason.CONTENT_FILTER,
}
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    tool: str = ""
    arguments: list[str] = field(default_factory=list)


class ChatCompletion:
    """A Completion."""

    def __init__(self, stream: ModelStream) -> None:
        self._stream = stream
        self._text = StreamedText()
        self._reasoning = StreamedText()
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._usage: dict[str, int] = {}

    @property
    def finished(self) -> bool:
        return self._finish is not None

    @property
    def done(self) -> bool:
        """Never: usage may follow the finish, up to the mark that ends the stream."""
        return False

    def add(self, chunk: JsonObject) -> None:
        self._add_usage(chunk.get("usage"))
        choice = next(iter(as_objects(chunk.get("choices"))), {})
        self._add_delta(as_object(choice.get("delta")) or as_object(choice.get("message")))
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._finish = finish

    def response(self) -> ModelResponse:
        parts: list[ResponsePart] = []
        reasoning, text = self._reasoning.whole(), self._text.whole()
        if reasoning:
            parts.append(ReasoningPart(reasoning))
        if text:
            parts.append(TextPart(text))
        for index, call in sorted(self._calls.items()):
            if call.tool:
                arguments = valid_unicode("".join(call.arguments))
                parts.append(
                    ToolCallPart(
                        CallId(valid_unicode(call.call_id) or f"call_{index}"),
                        valid_unicode(call.tool),
                        arguments if arguments.strip() else "{}",
                    )
                )
        return ModelResponse(tuple(parts), self._token_usage(), self._terminal_reason(parts))

    def _add_delta(self, delta: JsonObject) -> None:
        reasoning = next((value for name in REASONING_FIELDS if (value := as_text(delta.get(name)))), "")
        if reasoning and (shown := self._reasoning.add(reasoning)):
            self._stream.reasoning(shown)
        text = as_text(delta.get("content"))
        if text and (shown := self._text.add(text)):
            self._stream.text(shown)
        calls = delta.get("tool_calls")
        for item in as_objects(calls):
            self._add_call(item)

    def _add_call(self, item: JsonObject) -> None:
        index, function = item.get("index"), as_object(item.get("function"))
        if not isinstance(index, int):
            # Some servers do not number their calls: one that has a name begins, any other piece continues.
            last = max(self._calls, default=-1)
            index = last + 1 if as_text(function.get("name")) else max(last, 0)
        call = self._calls.setdefault(index, _Call())
        call.call_id = as_text(item.get("id")) or call.call_id
        call.tool = as_text(function.get("name")) or call.tool
        call.arguments.append(as_text(function.get("arguments")))

    def _add_usage(self, usage: JsonValue) -> None:
        """Usage may come in parts and more than once: what is not zero replaces what was there."""
        report = as_object(usage)
        counts = {
            "input": report.get("prompt_tokens"),
            "output": report.get("completion_tokens"),
            "cached": as_object(report.get("prompt_tokens_details")).get("cached_tokens"),
            "reasoning": as_object(report.get("completion_tokens_details")).get("reasoning_tokens"),
        }
        self._usage |= positive_counts(counts)

    def _token_usage(self) -> TokenUsage:
        get = self._usage.get
        return TokenUsage(
            input_tokens=get("input", 0),
            output_tokens=get("output", 0),
            cached_input_tokens=get("cached", 0),
            reasoning_tokens=get("reasoning", 0),
        )

    def _terminal_reason(self, parts: list[ResponsePart]) -> TerminalReason:
        if self._finish:
            return FINISH_REASONS.get(self._finish, TerminalReason.PROVIDER_ERROR)
        called = any(isinstance(part, ToolCallPart) for part in parts)
        return TerminalReason.TOOL_USE if called else TerminalReason.STOP
