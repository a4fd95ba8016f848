"""What a failed model call means: which failures may be tried again, and what of the server's words is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from lash_tasks.domain.codec import JsonValue
from lash_tasks.machine.requests import TerminalReason
from lash_tasks.ports import ProviderFailure

RAW_LIMIT = 4000
DETAIL_LIMIT = 200
RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

_AUTH_STATUSES = frozenset({401, 403})
_VALIDATION_STATUSES = frozenset({400, 413, 422})
_TRANSIENT_CODES = frozenset(
    {
        "api_error",
        "engine_overloaded",
        "internal_error",
        "internal_server_error",
        "overloaded",
        "overloaded_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "server_error",
        "service_unavailable",
        "timeout",
        "timeout_error",
    }
)
_CONTEXT_OVERFLOW = re.compile(
    r"context_length_exceeded|context_window_exceeded|context length|context window|context size"
    r"|prompt is too long|input is too long|too many (input )?tokens|reduce the length of"
)
_RATE = re.compile(r"rate[ _-]?limit|too many requests|per[ _-]?(second|sec|minute|min|hour)\b|\b[rt]pm\b|retry in \d")
_HARD_QUOTA = re.compile(
    r"insufficient_quota|usage_limit_reached|usage_not_included|spend_limit_reached"
    r"|billing_error|credit balance is too low"
)
_QUOTA = re.compile(r"quota")
_CONTENT_FILTER = re.compile(r"content_filter|prohibited_content|\bsafety\b|(?<!case-)(?<!case )\bsensitive\b")
_MODEL_UNKNOWN = re.compile(r"model_not_found|unsupported model|does not exist|not_found_error.*\bmodel:")
_LOOKS_LIKE_A_KEY = re.compile(r"\bsk-[A-Za-z0-9_*.-]{4,}")


class Redactor:
    """Removes secrets from text that a server sent: they echo the key they refuse."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # A placeholder of a few characters hides nothing and would blot out ordinary words.
        self._secrets = tuple(secret for secret in secrets if len(secret) >= 4)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return _LOOKS_LIKE_A_KEY.sub("[redacted]", text)

    def raw(self, text: str) -> str:
        """`text` as a failure may keep it: without secrets, head and tail of what is long."""
        text = valid_unicode(self(text))
        half = RAW_LIMIT // 2
        return text if len(text) <= RAW_LIMIT else text[: half - 2] + "\n…\n" + text[-half + 1 :]


def valid_unicode(text: str) -> str:
    """`text` with surrogates paired where they are pairs and replaced by U+FFFD where they are not."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse_json(text: str | bytes) -> JsonValue:
    """JSON from a server; ValueError for everything that is not."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def retry_after_seconds(header: str | None, now_ms: int) -> float | None:
    """A Retry-After header, in seconds or as a date; None if there is none that can be read."""
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit() and len(header) <= 9:
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - now_ms / 1000)


def status_failure(
    prefix: str, status: int, body: bytes, redact: Redactor, retry_after: float | None = None
) -> ProviderFailure:
    """The failure of an answer whose status is not 2xx (effects §14.3)."""
    text = body.decode("utf-8", "replace")
    message, code = _error_of(text)
    detail = redact(message or text.strip())[:DETAIL_LIMIT].strip() or "no detail"
    return _classified(
        f"{prefix} with {status}: {valid_unicode(detail)}", status, code, redact.raw(text), redact, retry_after
    )


def error_object_failure(prefix: str, error: JsonValue, redact: Redactor) -> ProviderFailure:
    """The failure of an `error` object inside an answer that began well (effects §14.5)."""
    text = json.dumps({"error": error}, ensure_ascii=False)
    message, code = _error_of(text)
    status = int(code) if code is not None and re.fullmatch(r"[45]\d\d", code) else None
    detail = redact(message or text)[:DETAIL_LIMIT].strip()
    return _classified(f"{prefix}: {valid_unicode(detail)}", status, code, redact.raw(text), redact, None)


def _error_of(text: str) -> tuple[str | None, str | None]:
    """Message and code of an error body, in the shapes that servers use."""
    try:
        body = parse_json(text)
    except ValueError:
        return None, None
    if not isinstance(body, dict):
        return None, None
    error = body.get("error", body)
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return None, None
    message = next((error[key] for key in ("message", "detail") if isinstance(error.get(key), str)), None)
    codes = (error.get("code"), error.get("type"))
    code = next((str(value) for value in codes if value and isinstance(value, str | int)), None)
    return message, code


def _classified(
    message: str, status: int | None, code: str | None, raw: str, redact: Redactor, retry_after: float | None
) -> ProviderFailure:
    kind, retryable = _by_status(status, code)
    terminal = TerminalReason.PROVIDER_ERROR
    words = f"{code} {message} {raw}".lower()
    refused = status is None or (400 <= status < 500 and status not in RETRYABLE_STATUSES)
    rate = _RATE.search(words) is not None
    spent = _QUOTA.search(words) is not None and not rate and (status is None or status < 500)
    if spent or _HARD_QUOTA.search(words):
        kind, retryable = "quota", False
    elif _CONTEXT_OVERFLOW.search(words) and not rate:
        kind, retryable, terminal = "validation", False, TerminalReason.CONTEXT_OVERFLOW
    elif refused and _CONTENT_FILTER.search(words):
        retryable, terminal = False, TerminalReason.CONTENT_FILTER
    elif refused and _MODEL_UNKNOWN.search(words):
        kind, retryable = "unsupported", False
    return ProviderFailure(
        message,
        code=valid_unicode(redact(code))[:100] if code else str(status or "provider_error"),
        kind=kind,
        retryable=retryable,
        status=status,
        raw=raw,
        retry_after=retry_after,
        terminal_reason=terminal.value,
    )


def _by_status(status: int | None, code: str | None) -> tuple[str, bool]:
    if status is None:
        return "stream", code is not None and code.lower() in _TRANSIENT_CODES
    if status in _AUTH_STATUSES:
        return "auth", False
    if status in _VALIDATION_STATUSES:
        return "validation", False
    return "http", status in RETRYABLE_STATUSES
