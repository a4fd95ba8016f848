"""The dialect of the `anthropic` provider: the Messages API (effects §14.6)."""

from __future__ import annotations

from collections.abc import Mapping

from lash_tasks.ports import ModelCall, ModelStream
from lash_tasks.providers.messages_request import request_body
from lash_tasks.providers.messages_response import MessagesCompletion

API_VERSION = "2023-06-01"


class Messages:
    """A Dialect."""

    vendor_host = "api.anthropic.com"
    path = "/v1/messages"
    buffered_field = "content"

    def headers(self, key: str) -> Mapping[str, str]:
        version = {"anthropic-version": API_VERSION}
        return {**version, "x-api-key": key} if key else version

    def body(self, call: ModelCall, host: str) -> bytes:
        return request_body(call, host)

    def completion(self, stream: ModelStream, host: str) -> MessagesCompletion:
        return MessagesCompletion(stream, host)
