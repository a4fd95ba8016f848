"""What a tool returned, as plain JSON data."""

from __future__ import annotations

from lash_tasks.domain.codec import JsonValue, canonical, parse, scrub
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.text import describe

MAX_RESULT_BYTES = 1024 * 1024
"""What one result may measure as canonical JSON, unless the dispatcher is told otherwise."""


class InvalidResult(Exception):
    """The tool's value cannot be recorded. The message names the tool."""


def result_json(tool: Tool[..., object], value: object, max_bytes: int = MAX_RESULT_BYTES) -> JsonValue:
    """`value` as the data that its recorded form reads back as; raises InvalidResult.

    It is written by the tool's result annotation, or by its own type where there is none. Lone surrogates are
    replaced. NaN, infinity, bytes, and what pydantic cannot write are refused, and so is more than `max_bytes`.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise InvalidResult(
            f"tool {tool.name} returned bytes, which JSON cannot carry; return text, base64 for instance"
        )
    try:
        data = canonical(_plain(tool, value))
        size = len(data)
        result = scrub(parse(data)) if size <= max_bytes else None
    except Exception as error:
        raise InvalidResult(f"tool {tool.name} returned a value that JSON cannot carry: {describe(error)}") from error
    if size > max_bytes:
        raise InvalidResult(f"tool {tool.name} returned {size} bytes of JSON and may return at most {max_bytes}")
    return result


def _plain(tool: Tool[..., object], value: object) -> JsonValue:
    try:
        return tool.signature.result.to_python(value, mode="json", warnings="none")
    except UnicodeEncodeError:
        # pydantic refuses lone surrogates in the keys of a dict; data that is plain already needs no pydantic.
        return value
