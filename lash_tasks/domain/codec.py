"""The one codec: canonical JSON, digests, and the versioned envelope around everything that is stored.

Canonical JSON is UTF-8 with keys sorted by code point, no white space, no NaN (effects §0). Optional fields that
are None are omitted by `to_json`. Every digest is lowercase hex SHA-256 of canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from lash_tasks.errors import LashError, UnsupportedRecordSchemaVersion

JsonValue = Any
"""A value that JSON can carry. `Any` lives here so that it need not live elsewhere."""
JsonObject = dict[str, JsonValue]

SCHEMA_VERSION = 1
OMITTED = Field(default=None)
"""For an optional field without a default, `Annotated[T | None, OMITTED]`: left out by `to_json`, it reads as None."""
UNREADABLE = (ValueError, TypeError, LookupError, RecursionError, LashError)
"""What `decode` raises for bytes that were spoilt, or that a later version has written."""
MAX_DEPTH = 200
"""How deep a value from outside may be nested. Serialising ends near 250, and the value is stored inside others."""
MAX_ARGUMENTS_DEPTH = 100
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ABSENT = object()
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: JsonValue) -> bytes:
    """Canonical JSON of `value`; ValueError for NaN or infinity, TypeError for what JSON cannot carry."""
    return _canonical(value).encode("utf-8", "surrogatepass")


def parse(data: bytes | str) -> JsonValue:
    return json.loads(data.decode("utf-8", "surrogatepass") if isinstance(data, bytes) else data)


def parse_object(text: str) -> JsonObject:
    """The JSON object in `text`, blank read as empty; ValueError with the reason for anything else.

    Whatever it returns, `canonical` and `encode` can carry: lone surrogates become U+FFFD, numbers that no float can
    hold and deep nesting are refused.
    """
    value = parse_value(text) if text.strip() else {}
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def parse_value(text: str) -> JsonValue:
    """The JSON value in `text`, as `parse_object` reads an object; ValueError with the reason if there is none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    return scrub(value, MAX_ARGUMENTS_DEPTH)


def scrub(value: JsonValue, levels: int = MAX_DEPTH) -> JsonValue:
    """`value` with every lone surrogate in its strings replaced by U+FFFD; ValueError if nested beyond `levels`."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict | list) and levels == 0:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        return {scrub(key): scrub(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item, levels - 1) for item in value]
    return value


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


def short_digest(value: JsonValue) -> str:
    """128 bits of `digest`: what tells stored things apart that are few, where every byte is written often."""
    return digest(value)[:32]


def digest(value: JsonValue) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(kind: Any, value: object) -> JsonValue:
    """`value`, an instance of `kind`, as plain JSON data; fields that are None are left out."""
    return _adapter(kind).dump_python(value, mode="json", exclude_none=True)


def from_json(kind: Any, data: JsonValue) -> Any:
    """An instance of `kind` from plain JSON data; pydantic.ValidationError if it does not fit."""
    return _adapter(kind).validate_python(data)


def encode(kind: Any, value: object) -> bytes:
    """The stored form: canonical JSON of `{"v": version, "d": value}`."""
    return canonical({"v": SCHEMA_VERSION, "d": to_json(kind, value)})


def decode(kind: Any, data: bytes) -> Any:
    """What `encode` stored. Raises UnsupportedRecordSchemaVersion, both numbers named, data untouched.

    ValueError for what does not fit; it says where and quotes nothing, because it will be logged.
    """
    record = parse(bytes(data))
    version = record.get("v") if isinstance(record, dict) else None
    name = getattr(kind, "__name__", str(kind))
    if version != SCHEMA_VERSION:
        raise UnsupportedRecordSchemaVersion(name, version if isinstance(version, int) else 0, SCHEMA_VERSION)
    try:
        return from_json(kind, record.get("d"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(("$", *map(str, first["loc"])))
        raise ValueError(f"a stored {name} does not fit at {place}: {first['type']}") from None


def difference(recorded: JsonValue, requested: JsonValue, path: str = "$") -> list[str]:
    """Where two JSON values differ, one line a place: `path: recorded -> requested`."""
    if isinstance(recorded, Mapping) and isinstance(requested, Mapping):
        lines: list[str] = []
        for key in sorted(recorded.keys() | requested.keys()):
            lines += difference(recorded.get(key, _ABSENT), requested.get(key, _ABSENT), f"{path}.{key}")
        return lines
    if _is_list(recorded) and _is_list(requested) and len(recorded) == len(requested):
        return [
            line
            for index, (left, right) in enumerate(zip(recorded, requested, strict=True))
            for line in difference(left, right, f"{path}[{index}]")
        ]
    if recorded == requested and type(recorded) is type(requested):
        return []
    return [f"{path}: {_short(recorded)} -> {_short(requested)}"]


def _is_list(value: JsonValue) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _short(value: JsonValue) -> str:
    text = "(absent)" if value is _ABSENT else json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."
