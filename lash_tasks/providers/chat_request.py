"""A model request in the dialect of Chat Completions (effects §14.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.messages import ImagePart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.models import DEFAULT_OPTIONS, ModelOptions
from lash_tasks.machine.requests import ModelMessage, ModelRequest
from lash_tasks.ports import ModelCall
from lash_tasks.providers.call_ids import CallIds
from lash_tasks.providers.failures import valid_unicode
from lash_tasks.providers.outgoing import LoadBlob, arguments_object, encoded, image_data

DIALECT = "chat_completions"
_CALL_ID = re.compile(r".{1,40}")
"""What OpenAI itself takes. Which characters, nobody says, and some servers want their own ids back as they were."""


def request_body(call: ModelCall, host: str = "") -> bytes:
    """The request to `host` as ASCII JSON. ProviderFailure `unsupported_image_format` for an image of another type."""
    body: JsonObject = {
        "model": call.model,
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
    messages = b",".join(_messages(call.request, call.load_blob))
    return b'%s,"messages":[%s]}' % (encoded(body).removesuffix(b"}"), messages)


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


def _messages(request: ModelRequest, load_blob: LoadBlob) -> Iterator[bytes]:
    if request.system.strip():
        yield encoded({"role": "system", "content": valid_unicode(request.system)})
    for message in request.messages:
        written = message.wire.get(DIALECT)
        if written is None:
            written = _written(message, load_blob)
        if written:
            yield written


def _written(message: ModelMessage, load_blob: LoadBlob) -> bytes:
    """A message as what it is on the wire: none, one or several."""
    ids = CallIds(_CALL_ID, unique=False)  # so a call's id hangs on nothing but itself, whatever was said before
    shown = _assistant(message, ids) if message.role is Role.ASSISTANT else _user(message, ids, load_blob)
    written = b",".join(map(encoded, shown))
    if not any(isinstance(part, ImagePart) for part in message.parts):  # images are large, and lie in the blob store
        message.wire[DIALECT] = written
    return written


def _assistant(message: ModelMessage, ids: CallIds) -> Iterator[JsonObject]:
    text = _text(message)
    calls = [
        {
            "id": ids.of_call(part.call_id),
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
    """What the model wrote, character by character, if it is a JSON object."""
    return valid_unicode(text) if arguments_object(text) else "{}"


def _user(message: ModelMessage, ids: CallIds, load_blob: LoadBlob) -> Iterator[JsonObject]:
    # Results first: the server wants them directly behind the calls they answer.
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            yield {
                "role": "tool",
                "tool_call_id": ids.of_result(part.call_id),
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
        case ImagePart():
            url = f"data:{part.media_type};base64,{image_data(part, load_blob)}"
            yield {"type": "image_url", "image_url": {"url": url}}
        case _:
            return
