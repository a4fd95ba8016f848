"""Which failures may be tried again, and what of a server's words is kept (T14.1)."""

from __future__ import annotations

import json

import pytest

from lash_tasks.ports import ProviderFailure
from lash_tasks.providers.failures import (
    RAW_LIMIT,
    Redactor,
    error_object_failure,
    retry_after_seconds,
    status_failure,
    valid_unicode,
)

NOW_MS = 1_700_000_000_000
KEY = "key-9f8e7d6c5b4a-sentinel"
REDACT = Redactor((KEY,))


def failure_of(status: int, message: str = "went wrong", code: str | None = None) -> ProviderFailure:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return status_failure("openai request failed", status, body, REDACT)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "validation", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "http", False),
        (408, "http", True),
        (409, "http", True),
        (410, "http", False),
        (413, "validation", False),
        (418, "http", False),
        (422, "validation", False),
        (425, "http", True),
        (429, "http", True),
        (500, "http", True),
        (501, "http", False),
        (502, "http", True),
        (503, "http", True),
        (504, "http", True),
        (529, "http", True),
        (301, "http", False),
    ],
)
def test_the_status_decides(status: int, kind: str, retryable: bool) -> None:
    failure = failure_of(status)
    assert (failure.kind, failure.retryable, failure.status) == (kind, retryable, status)
    assert failure.code == str(status)
    assert failure.terminal_reason == "provider_error"
    assert failure.message == f"openai request failed with {status}: went wrong"


@pytest.mark.parametrize(
    ("status", "message", "code", "kind", "retryable", "terminal"),
    [
        (400, "maximum context length is 8192 tokens", None, "validation", False, "context_overflow"),
        (400, "too big", "context_length_exceeded", "validation", False, "context_overflow"),
        (413, "Prompt is too long", None, "validation", False, "context_overflow"),
        (500, "exceeds the available context size", None, "validation", False, "context_overflow"),
        (429, "Rate limit: context window tokens per minute", None, "http", True, "provider_error"),
        (429, "Request too large on tokens per min (TPM)", None, "http", True, "provider_error"),
        (429, "You exceeded your current quota", "insufficient_quota", "quota", False, "provider_error"),
        (429, "You exceeded your current quota, check your plan", None, "quota", False, "provider_error"),
        (429, "plan used up", "usage_limit_reached", "quota", False, "provider_error"),
        (403, "not in your plan", "usage_not_included", "quota", False, "provider_error"),
        (429, "Quota exceeded: requests per minute", None, "http", True, "provider_error"),
        (429, "quota per minute", None, "http", True, "provider_error"),
        (500, "disk quota trouble", None, "http", True, "provider_error"),
        (400, "flagged", "content_filter", "validation", False, "content_filter"),
        (400, "PROHIBITED_CONTENT", None, "validation", False, "content_filter"),
        (400, "blocked by our safety system", None, "validation", False, "content_filter"),
        (400, "sensitive material", None, "validation", False, "content_filter"),
        (400, "names are case-sensitive", None, "validation", False, "provider_error"),
        (503, "the safety system is down", None, "http", True, "provider_error"),
        (404, "no such thing", "model_not_found", "unsupported", False, "provider_error"),
        (404, "The model `gpt-9` does not exist", None, "unsupported", False, "provider_error"),
        (400, "Unsupported model", None, "unsupported", False, "provider_error"),
        (500, "row does not exist", None, "http", True, "provider_error"),
    ],
)
def test_the_words_of_an_error_refine_it(
    status: int, message: str, code: str | None, kind: str, retryable: bool, terminal: str
) -> None:
    failure = failure_of(status, message, code)
    assert (failure.kind, failure.retryable, failure.terminal_reason) == (kind, retryable, terminal)
    assert failure.code == (code or str(status))


@pytest.mark.parametrize(
    ("error", "retryable", "code"),
    [
        ({"message": "slow down", "code": "rate_limit_exceeded"}, True, "rate_limit_exceeded"),
        ({"message": "oops", "type": "server_error", "code": None}, True, "server_error"),
        ({"message": "slow down", "code": 429}, True, "429"),
        ({"message": "bad gateway", "code": 502}, True, "502"),
        ({"message": "no", "code": 400}, False, "400"),
        ({"message": "no", "type": "invalid_request_error"}, False, "invalid_request_error"),
        ("something broke", False, "provider_error"),
        ({"message": "over", "code": "insufficient_quota"}, False, "insufficient_quota"),
    ],
)
def test_an_error_inside_a_stream_is_retried_only_if_it_is_known_to_pass(
    error: object, retryable: bool, code: str
) -> None:
    failure = error_object_failure("openai request failed", error, REDACT)
    assert (failure.retryable, failure.code) == (retryable, code)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"error": "flat"}', "flat"),
        (b'{"object": "error", "message": "vllm says"}', "vllm says"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>" + b"x" * 500, "<html>" + "x" * 194),
        (b"", "no detail"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"error": {"message": 5}}', '{"error": {"message": 5}}'),
        (b"[" * 100_000, "[" * 200),
        (b"\xff\xfe", "��"),
    ],
)
def test_the_detail_is_the_servers_message_or_the_start_of_the_body(body: bytes, detail: str) -> None:
    assert status_failure("p", 500, body, REDACT).message == f"p with 500: {detail}"


def test_a_key_that_the_server_echoes_is_redacted() -> None:
    failure = failure_of(401, f"Incorrect API key provided: {KEY}. Also sk-proj-abcd1234wxyz.", code=KEY)
    for text in (failure.message, failure.raw or "", failure.code, str(failure), repr(failure)):
        assert KEY not in text
        assert "sk-proj" not in text
    assert "Incorrect API key provided: [redacted]" in failure.message


def test_raw_keeps_head_and_tail_of_a_long_body() -> None:
    body = b"head" + b"x" * 100_000 + b"tail"
    raw = status_failure("p", 500, body, REDACT).raw or ""
    assert len(raw) == RAW_LIMIT
    assert raw.startswith("head")
    assert raw.endswith("tail")
    assert status_failure("p", 500, b"y" * RAW_LIMIT, REDACT).raw == "y" * RAW_LIMIT


def test_a_key_at_the_cut_of_raw_does_not_survive_in_half() -> None:
    half = RAW_LIMIT // 2
    body = ("x" * (half - 10) + KEY + "x" * RAW_LIMIT).encode()
    assert KEY[:6] not in (status_failure("p", 500, body, REDACT).raw or "")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW_MS) == seconds


def test_surrogates_are_paired_or_replaced() -> None:
    assert valid_unicode("a\ud83d\ude00b") == "a😀b"
    assert valid_unicode("\ud83dx\udc00\ud83d") == "�x��"
    assert valid_unicode("nul \x00 stays") == "nul \x00 stays"
