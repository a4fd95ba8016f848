"""The dialect of the `openai` provider: Chat Completions, as OpenAI and most other servers speak it (effects §14.5)."""

from __future__ import annotations

from collections.abc import Mapping

from lash_tasks.ports import ModelCall, ModelStream
from lash_tasks.providers.chat_request import request_body
from lash_tasks.providers.chat_response import ChatCompletion


class ChatCompletions:
    """A Dialect."""

    vendor_host = "api.openai.com"
    path = "/chat/completions"
    buffered_field = "choices"

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def body(self, call: ModelCall, host: str) -> bytes:
        return request_body(call, host)

    def completion(self, stream: ModelStream, host: str) -> ChatCompletion:
        return ChatCompletion(stream)
