"""Anthropic's Messages on the counting endpoint: what the server streams, and what it refuses of a request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from lash_tasks.domain.codec import JsonObject
from tests.endpoint import ModelEndpoint, Reply, Script, last_user_text

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def base_url(endpoint: ModelEndpoint) -> str:
    return endpoint.base_url.removesuffix("/v1")


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: int) -> bytes:
    message: JsonObject = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": None}
    return event("message_start", message={**message, "usage": {"input_tokens": 10, "output_tokens": 1, **usage}})


def block(index: int, content: JsonObject, *deltas: JsonObject) -> list[bytes]:
    """One whole block of content."""
    pieces = [event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return [
        event("content_block_start", index=index, content_block=content),
        *pieces,
        event("content_block_stop", index=index),
    ]


def text_block(index: int, *pieces: str) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thinking_block(index: int, text: str, signature: str) -> list[bytes]:
    deltas = [{"type": "thinking_delta", "thinking": text}, {"type": "signature_delta", "signature": signature}]
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)


def tool_block(index: int, tool: str, *pieces: str, call_id: str = "toolu_1") -> list[bytes]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, {"type": "tool_use", "id": call_id, "name": tool, "input": {}}, *deltas)


def delta(stop_reason: str | None, **usage: int) -> bytes:
    return event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, usage=usage)


STOP = event("message_stop")
PING = event("ping")


def reply(*blocks: list[bytes], stop_reason: str = "end_turn", output: int = 5) -> Reply:
    """A whole answer: its blocks, why it ends, and the usage."""
    steps = [step for one in blocks for step in one]
    return Reply((start(), PING, *steps, delta(stop_reason, output_tokens=output), STOP))


def error_reply(status: int, kind: str, message: str, **headers: str) -> Reply:
    """An error; header names are written with underscores."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply((json.dumps(body).encode(),), status, {"Content-Type": "application/json", **named})


def strict(script: Script) -> Script:
    """`script`, behind the checks of the real server: what it would refuse is answered with 400."""

    def checked(request: JsonObject) -> Reply:
        problem = next(_problems(request), None)
        return error_reply(400, "invalid_request_error", problem) if problem else script(request)

    return checked


def _problems(request: JsonObject) -> Iterator[str]:
    if "max_tokens" not in request:
        yield "max_tokens: Field required"
    roles = [message["role"] for message in request["messages"]]
    if not roles or roles[0] != "user":
        yield "messages: first message must use the user role"
    if any(first == second for first, second in pairwise(roles)):
        yield "messages: roles must alternate"
    waiting: set[str] = set()
    used: set[str] = set()
    for message in request["messages"]:
        blocks = message["content"]
        results = [one["tool_use_id"] for one in blocks if one["type"] == "tool_result"]
        if waiting != set(results) or [one["type"] for one in blocks[: len(results)]] != ["tool_result"] * len(results):
            yield "messages: `tool_use` ids were found without `tool_result` blocks immediately after"
        calls = [one["id"] for one in blocks if one["type"] == "tool_use"]
        waiting = set(calls)
        if used & waiting or len(waiting) < len(calls):
            yield "messages: `tool_use` ids must be unique"
        used |= waiting
        yield from _block_problems(blocks)
    if waiting:
        yield "messages: `tool_use` ids were found without `tool_result` blocks immediately after"
    if used and not request.get("tools"):
        yield "Requests which include `tool_use` or `tool_result` blocks must define tools"
    if request.get("thinking", {}).get("type") == "enabled":
        if not 1024 <= request["thinking"]["budget_tokens"] < request["max_tokens"]:
            yield "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        if request["messages"][-1]["content"][0]["type"] == "tool_result":
            first = request["messages"][-2]["content"][0]["type"]
            if first not in ("thinking", "redacted_thinking"):
                yield f"messages: Expected `thinking` or `redacted_thinking`, but found `{first}`"


def _block_problems(blocks: list[JsonObject]) -> Iterator[str]:
    if not blocks:
        yield "messages: must have non-empty content"
    for one in blocks:
        match one:
            case {"type": "text", "text": text} if not text.strip():
                yield "messages: text content blocks must be non-empty"
            case {"type": "tool_use", "id": id_} | {"type": "tool_result", "tool_use_id": id_} if not _ID.fullmatch(
                id_
            ):
                yield "messages: String should match pattern '^[a-zA-Z0-9_-]+$'"
            case {"type": "thinking", "signature": signature} if not signature.startswith("signed:"):
                yield "messages: Invalid `signature` in `thinking` block"
            case _:
                continue


def converse(request: JsonObject) -> Reply:
    """The plain conversation of tests.endpoint: a text is thought about and looked up, the result answered."""
    results = [one for one in request["messages"][-1]["content"] if one["type"] == "tool_result"]
    said = last_user_text({"messages": [_without_results(message) for message in request["messages"]]})
    if results or not request.get("tools"):
        return reply(text_block(0, "answer: ", said))
    arguments = json.dumps({"text": said})
    call_id = f"toolu_{sum(message['role'] == 'assistant' for message in request['messages'])}"
    return reply(
        thinking_block(0, "Look it up.", f"signed:{said}"),
        tool_block(1, request["tools"][0]["name"], arguments[:5], arguments[5:], call_id=call_id),
        stop_reason="tool_use",
    )


def _without_results(message: JsonObject) -> JsonObject:
    """`message` for `last_user_text`; one of results alone is nobody's text."""
    texts = [one for one in message["content"] if one["type"] == "text"]
    return {"role": message["role"] if texts else "tool", "content": texts}
