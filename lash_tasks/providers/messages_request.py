"""A model request in the dialect of Anthropic's Messages (effects §14.6)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.messages import (
    ImagePart,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolStatus,
)
from lash_tasks.domain.models import DEFAULT_OPTIONS, ModelOptions
from lash_tasks.machine.requests import ModelRequest
from lash_tasks.ports import ModelCall
from lash_tasks.providers.call_ids import CallIds
from lash_tasks.providers.failures import valid_unicode
from lash_tasks.providers.outgoing import LoadBlob, arguments_object, encoded, image_data

DEFAULT_MAX_TOKENS = 32_000
"""The server wants a number. The models since Claude 4 all take this one, some take no more."""
MIN_BUDGET = 1024
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096}
HIGH_BUDGET = 12_288
CACHED: JsonObject = {"type": "ephemeral"}
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_THINKING = frozenset({"thinking", "redacted_thinking"})


def request_body(call: ModelCall, host: str) -> bytes:
    """The request to `host` as ASCII JSON. ProviderFailure `unsupported_image_format` for an image of another type."""
    request, options = call.request, call.request.options or DEFAULT_OPTIONS
    messages = _messages(request, call.load_blob, host)
    body: JsonObject = {
        "model": call.model,
        "max_tokens": options.max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": messages,
        "stream": True,
    }
    if request.system.strip():
        body["system"] = [{"type": "text", "text": valid_unicode(request.system), "cache_control": CACHED}]
    _add_tools(body, request)
    _add_reasoning(body, call.model, options)
    if options.temperature is not None and _takes_temperature(call.model, body):
        body["temperature"] = options.temperature
    body.update(options.extra or {})
    return encoded(body)


# ---------------------------------------------------------------- messages


def _messages(request: ModelRequest, load_blob: LoadBlob, host: str) -> list[JsonObject]:
    """Neighbours of one role become one message, as the server wants it, with results before everything else."""
    merged: list[tuple[str, list[JsonObject]]] = []
    ids = CallIds(_CALL_ID, unique=True)
    for message in request.messages:
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = [block for part in message.parts for block in _blocks(part, ids, load_blob, host)]
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        elif blocks:
            merged.append((role, blocks))
    for role, blocks in merged:
        if role == "user":
            blocks.sort(key=lambda block: block["type"] != "tool_result")
    if merged and merged[-1][0] == "user":
        merged[-1][1][-1]["cache_control"] = CACHED
    return [{"role": role, "content": blocks} for role, blocks in merged]


def _blocks(part: Part, ids: CallIds, load_blob: LoadBlob, host: str) -> Iterator[JsonObject]:
    match part:
        case TextPart():
            if part.text.strip():
                yield {"type": "text", "text": valid_unicode(part.text)}
        case ImagePart():
            data = image_data(part, load_blob)
            yield {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}
        case ReasoningPart():
            yield from _reasoning(part, host)
        case ToolCallPart():
            arguments = arguments_object(part.arguments) or {}
            yield {"type": "tool_use", "id": ids.of_call(part.call_id), "name": part.tool, "input": arguments}
        case ToolResultPart():
            yield _result(part, ids)


def _reasoning(part: ReasoningPart, host: str) -> Iterator[JsonObject]:
    """Only what this server signed: it refuses a request with anybody else's."""
    replay = part.replay or {}
    if replay.get("host") != host:
        return
    if replay.get("signature"):
        yield {"type": "thinking", "thinking": valid_unicode(part.text), "signature": replay["signature"]}
    elif replay.get("redacted"):
        yield {"type": "redacted_thinking", "data": replay["redacted"]}


def _result(part: ToolResultPart, ids: CallIds) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": ids.of_result(part.call_id)}
    if part.text.strip():
        block["content"] = valid_unicode(part.text)
    if part.status is not ToolStatus.SUCCESS:
        block["is_error"] = True
    return block


# ---------------------------------------------------------------- tools and reasoning


def _add_tools(body: JsonObject, request: ModelRequest) -> None:
    """The tools on offer; where none is, those of the history, which the server does not take without."""
    tools: list[JsonObject] = [
        {"name": spec.name, "description": valid_unicode(spec.description), "input_schema": spec.parameters}
        for spec in request.tools
    ]
    choice = "auto"
    if not tools:
        parts = (part for message in request.messages for part in message.parts)
        names = dict.fromkeys(part.tool for part in parts if isinstance(part, ToolCallPart))
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
        choice = "none"
    if tools:
        tools[-1]["cache_control"] = CACHED
        body["tools"] = tools
        body["tool_choice"] = {"type": choice}


def _add_reasoning(body: JsonObject, model: str, options: ModelOptions) -> None:
    """Models since Claude 4.6 decide themselves how much to think, by the effort; older ones are given a budget."""
    effort = options.reasoning_effort
    if effort is None:
        return
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    version = _version(model)
    if version is None or version >= (4, 6):
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": _effort(effort, version)}
        return
    budget = min(BUDGETS.get(effort, HIGH_BUDGET), body["max_tokens"] - 1)
    if budget >= MIN_BUDGET and not _goes_on_without_thinking(body["messages"]):
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _takes_temperature(model: str, body: JsonObject) -> bool:
    """Claude takes none beside its thinking, and since 4.7 none at all."""
    if body.get("thinking", {}).get("type") in ("adaptive", "enabled"):
        return False
    version = _version(model)
    return "claude" not in model if version is None else version < (4, 7)


def _effort(effort: str, version: tuple[int, int] | None) -> str:
    if effort == "minimal":
        return "low"
    return "high" if effort == "xhigh" and version == (4, 6) else effort


def _version(model: str) -> tuple[int, int] | None:
    """The version in the name of a Claude model; None for a name without one."""
    match = _VERSION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _goes_on_without_thinking(messages: list[JsonObject]) -> bool:
    """Whether results are sent of calls that did not begin with thinking here, which must go on like that."""
    answers = bool(messages) and any(block["type"] == "tool_result" for block in messages[-1]["content"])
    return answers and len(messages) > 1 and messages[-2]["content"][0]["type"] not in _THINKING
