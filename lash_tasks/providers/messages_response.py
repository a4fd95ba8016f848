"""Answers of Anthropic's Messages put together: from events as they stream, or from one buffered object (§14.6)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelResponse, ResponsePart, TerminalReason
from lash_tasks.ports import ModelStream
from lash_tasks.providers.failures import valid_unicode
from lash_tasks.providers.incoming import StreamedText, as_object, as_objects, as_text, positive_counts

STOP_REASONS: dict[str, TerminalReason] = {
    "end_turn": TerminalReason.STOP,
    "stop_sequence": TerminalReason.STOP,
    "pause_turn": TerminalReason.STOP,
    "tool_use": TerminalReason.TOOL_USE,
    "max_tokens": TerminalReason.OUTPUT_LIMIT,
    "model_context_window_exceeded": TerminalReason.OUTPUT_LIMIT,
    "refusal": TerminalReason.CONTENT_FILTER,
    "safety": TerminalReason.CONTENT_FILTER,
    "sensitive": TerminalReason.CONTENT_FILTER,
}


@dataclass(slots=True)
class _Block:
    """One block of content, of whatever type; pieces of other types stay empty."""

    type: str
    text: StreamedText = field(default_factory=StreamedText)
    """Also of thinking."""
    signature: str = ""
    redacted: str = ""
    call_id: str = ""
    tool: str = ""
    input: JsonValue = None
    arguments: list[str] = field(default_factory=list)


class MessagesCompletion:
    """A Completion of the server `host`, whose name signed reasoning keeps."""

    def __init__(self, stream: ModelStream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._blocks: dict[int, _Block] = {}
        self._stop: str | None = None
        self._explanation = ""
        self._usage: dict[str, int] = {}
        self._done = False

    @property
    def finished(self) -> bool:
        return self._stop is not None

    @property
    def done(self) -> bool:
        return self._done

    def add(self, chunk: JsonObject) -> None:
        match chunk.get("type"):
            case "message_start":
                self._add_usage(as_object(chunk.get("message")))
            case "content_block_start":
                self._begin(chunk.get("index"), as_object(chunk.get("content_block")))
            case "content_block_delta":
                self._continue(chunk.get("index"), as_object(chunk.get("delta")))
            case "message_delta":
                self._add_stop(as_object(chunk.get("delta")))
                self._add_usage(chunk)
            case "message_stop":
                self._done = True
            case "message" | None if isinstance(chunk.get("content"), list):
                self._add_buffered(chunk)
            case _:
                return  # pings, the ends of blocks, and what is yet to be invented

    def response(self) -> ModelResponse:
        parts = tuple(
            part for index, block in sorted(self._blocks.items()) if (part := self._part(index, block)) is not None
        )
        diagnostic = valid_unicode(self._explanation) or None
        return ModelResponse(parts, self._token_usage(), self._terminal_reason(parts), diagnostic)

    # ------------------------------------------------------------ reading

    def _add_buffered(self, message: JsonObject) -> None:
        for index, content in enumerate(as_objects(message.get("content"))):
            self._begin(index, content)
        self._add_stop(message)
        self._add_usage(message)
        self._done = True

    def _begin(self, index: JsonValue, content: JsonObject) -> None:
        if not isinstance(index, int):
            return
        block = self._blocks[index] = _Block(
            type=as_text(content.get("type")),
            signature=as_text(content.get("signature")),
            redacted=as_text(content.get("data")),
            call_id=as_text(content.get("id")),
            tool=as_text(content.get("name")),
            input=content.get("input"),
        )
        self._show(block, as_text(content.get("text")) or as_text(content.get("thinking")))

    def _continue(self, index: JsonValue, delta: JsonObject) -> None:
        block = self._blocks.get(index) if isinstance(index, int) else None
        if block is None:
            return
        match delta.get("type"):
            case "text_delta":
                self._show(block, as_text(delta.get("text")))
            case "thinking_delta":
                self._show(block, as_text(delta.get("thinking")))
            case "signature_delta":
                block.signature = as_text(delta.get("signature"))
            case "input_json_delta":
                block.arguments.append(as_text(delta.get("partial_json")))
            case _:
                return

    def _show(self, block: _Block, piece: str) -> None:
        shown = block.text.add(piece)
        if shown and block.type == "text":
            self._stream.text(shown)
        elif shown and block.type == "thinking":
            self._stream.reasoning(shown)

    def _add_stop(self, delta: JsonObject) -> None:
        self._stop = as_text(delta.get("stop_reason")) or self._stop
        self._explanation = as_text(as_object(delta.get("stop_details")).get("explanation")) or self._explanation

    def _add_usage(self, message: JsonObject) -> None:
        """Usage comes at the start and again at the end, with counts of the whole: what is not zero replaces."""
        report = as_object(message.get("usage"))
        self._usage |= positive_counts({**report, **as_object(report.get("output_tokens_details"))})

    # ------------------------------------------------------------ the answer

    def _part(self, index: int, block: _Block) -> ResponsePart | None:
        text = block.text.whole()
        match block.type:
            case "text" if text:
                return TextPart(text)
            case "thinking" if block.signature:
                return ReasoningPart(text, {"signature": valid_unicode(block.signature), "host": self._host})
            case "thinking" if text:
                return ReasoningPart(text)
            case "redacted_thinking" if block.redacted:
                return ReasoningPart("", {"redacted": valid_unicode(block.redacted), "host": self._host})
            case "tool_use" if block.tool:
                call_id = CallId(valid_unicode(block.call_id) or f"call_{index}")
                return ToolCallPart(call_id, valid_unicode(block.tool), _arguments(block))
            case _:
                return None

    def _token_usage(self) -> TokenUsage:
        get = self._usage.get
        cached = get("cache_read_input_tokens", 0)
        return TokenUsage(
            input_tokens=get("input_tokens", 0) + cached + get("cache_creation_input_tokens", 0),
            output_tokens=get("output_tokens", 0),
            cached_input_tokens=cached,
            reasoning_tokens=get("thinking_tokens", 0),
        )

    def _terminal_reason(self, parts: tuple[ResponsePart, ...]) -> TerminalReason:
        if self._stop:
            return STOP_REASONS.get(self._stop, TerminalReason.PROVIDER_ERROR)
        called = any(isinstance(part, ToolCallPart) for part in parts)
        return TerminalReason.TOOL_USE if called else TerminalReason.STOP


def _arguments(block: _Block) -> str:
    """What was streamed; else what stood in the block from the start, as some servers send it."""
    streamed = valid_unicode("".join(block.arguments))
    if streamed.strip():
        return streamed
    return valid_unicode(json.dumps(block.input)) if isinstance(block.input, dict) else "{}"
