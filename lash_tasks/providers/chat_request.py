"""A model request in the dialect of Chat Completions (effects §14.5)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.ids import BlobRef
from lash_tasks.domain.messages import ImagePart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.models import DEFAULT_OPTIONS, ModelOptions
from lash_tasks.machine.requests import ModelMessage, ModelRequest
from lash_tasks.ports import ModelCall, ProviderFailure
from lash_tasks.providers.failures import parse_json, valid_unicode

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

LoadBlob = Callable[[BlobRef], bytes]


def request_body(call: ModelCall, host: str = "") -> bytes:
    """The request to `host` as ASCII JSON. ProviderFailure `unsupported_image_format` for an image of another type."""
    body: JsonObject = {
        "model": call.model,
        "messages": list(_messages(call.request, call.load_blob)),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if call.request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": spec.name,
                    "description": valid_unicode(spec.description),
                    "parameters": spec.parameters,
                },
            }
            for spec in call.request.tools
        ]
        body["tool_choice"] = "auto"
        body["parallel_tool_calls"] = True
    _add_options(body, call.request.options or DEFAULT_OPTIONS, host)
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def _add_options(body: JsonObject, options: ModelOptions, host: str) -> None:
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.max_output_tokens is not None:
        # OpenAI's reasoning models take only the new name, many other servers only the old one.
        new = host.endswith((".openai.com", ".azure.com"))
        body["max_completion_tokens" if new else "max_tokens"] = options.max_output_tokens
    if options.reasoning_effort is not None:
        body["reasoning_effort"] = options.reasoning_effort
    body.update(options.extra or {})


def _messages(request: ModelRequest, load_blob: LoadBlob) -> Iterator[JsonObject]:
    if request.system.strip():
        yield {"role": "system", "content": valid_unicode(request.system)}
    for message in request.messages:
        if message.role is Role.ASSISTANT:
            yield from _assistant(message)
        else:
            yield from _user(message, load_blob)


def _assistant(message: ModelMessage) -> Iterator[JsonObject]:
    text = _text(message)
    calls = [
        {
            "id": part.call_id,
            "type": "function",
            "function": {"name": part.tool, "arguments": _arguments(part.arguments)},
        }
        for part in message.parts
        if isinstance(part, ToolCallPart)
    ]
    if calls:
        yield {"role": "assistant", "content": text or None, "tool_calls": calls}
    elif text:
        yield {"role": "assistant", "content": text}


def _arguments(text: str) -> str:
    """What the model wrote if it is a JSON object. Servers that parse it would refuse the session for good."""
    text = valid_unicode(text)
    try:
        return text if isinstance(parse_json(text), dict) else "{}"
    except ValueError:
        return "{}"


def _user(message: ModelMessage, load_blob: LoadBlob) -> Iterator[JsonObject]:
    # Results first: the server wants them directly behind the calls they answer.
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            yield {
                "role": "tool",
                "tool_call_id": part.call_id,
                "name": part.tool,
                "content": valid_unicode(part.text),
            }
    content: JsonValue = _text(message)
    if any(isinstance(part, ImagePart) for part in message.parts):
        content = [block for part in message.parts for block in _block(part, load_blob)]
    if content:
        yield {"role": "user", "content": content}


def _text(message: ModelMessage) -> str:
    return "\n\n".join(valid_unicode(part.text) for part in message.parts if isinstance(part, TextPart) and part.text)


def _block(part: object, load_blob: LoadBlob) -> Iterator[JsonObject]:
    match part:
        case TextPart(text=text) if text:
            yield {"type": "text", "text": valid_unicode(text)}
        case ImagePart(blob=blob, media_type=media_type):
            if media_type not in IMAGE_TYPES:
                raise ProviderFailure(
                    f"the model takes no {media_type} images; send jpeg, png, gif or webp",
                    code="unsupported_image_format",
                    kind="validation",
                )
            data = base64.b64encode(load_blob(blob)).decode("ascii")
            yield {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case _:
            return
