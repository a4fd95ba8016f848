"""What may come in at the door: strict models of the requests, and their refusals as one sentence about one field."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from lash_tasks.domain.codec import JsonObject, JsonValue, canonical, parse
from lash_tasks.domain.ids import name_problem
from lash_tasks.domain.inputs import ImageRefItem, InputItem, TextItem, TurnInput
from lash_tasks.domain.policies import read_model
from lash_tasks.domain.queue import When
from lash_tasks.errors import InvalidInput, PayloadTooLarge

MAX_CONTEXT_BYTES = 16 * 1024
MAX_CONTEXT_DEPTH = 100
"""Far below what the codec carries, because a context travels inside other records."""
MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999."""
MAX_QUIET_MS = 3_600_000
_MAX_SHOWN = 80
_ITEM_TYPES = "must be 'text' or 'image_ref'"


def check_name(field: str, value: object) -> str:
    """`value` if it can be an id or key that a caller chooses; InvalidInput naming `field` if not."""
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be a string, not {_kind(value)}")
    problem = name_problem(value)
    if problem is not None:
        raise InvalidInput(field, problem)
    return value


# ---------------------------------------------------------------- kinds of values


def _name(value: str) -> str:
    problem = name_problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode text, and has a lone surrogate") from None
    return value


def _image(value: object) -> object:
    """The bytes of an image: as they are within Python, as base64 in a message."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def _model(value: str) -> str:
    try:
        return read_model("model", value)
    except InvalidInput as error:
        raise ValueError(error.problem) from None


def _when(value: object) -> When:
    if isinstance(value, str) and value in tuple(When):
        return When(value)
    *others, last = (f"'{when.value}'" for when in When)
    raise ValueError(f"must be {', '.join(others)} or {last}")


def _context(value: JsonObject) -> JsonObject:
    """The context as it will be read back: plain JSON."""
    try:
        data = canonical(value)
        data.decode()
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("must be Unicode text, and has a lone surrogate") from None
    except (TypeError, ValueError):
        raise ValueError("must be JSON: objects, arrays, strings, finite numbers, true, false and null") from None
    if len(data) > MAX_CONTEXT_BYTES:
        raise PayloadTooLarge("context", len(data), MAX_CONTEXT_BYTES)
    plain: JsonObject = parse(data)
    if _is_deeper_than(MAX_CONTEXT_DEPTH, plain):
        raise ValueError(f"is nested deeper than {MAX_CONTEXT_DEPTH} levels")
    return plain


def _is_deeper_than(limit: int, value: JsonValue) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


def _key(value: str) -> str:
    if value.startswith(("process:", "command:")):
        raise ValueError("must not begin with 'process:' or 'command:', as keys of wakes and commands do")
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
Model = Annotated[str, AfterValidator(_model)]
Context = Annotated[JsonObject, AfterValidator(_context)]
TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


# ---------------------------------------------------------------- send


class _TextItem(BaseModel):
    model_config = STRICT
    type: Literal["text"]
    text: Text


class _ImageRefItem(BaseModel):
    model_config = STRICT
    type: Literal["image_ref"]
    id: Name


class _Input(BaseModel):
    model_config = STRICT
    items: list[Annotated[_TextItem | _ImageRefItem, Field(discriminator="type")]]
    image_blobs: dict[Name, Annotated[bytes, BeforeValidator(_image)]] = {}


class SendRequest(BaseModel):
    """An input on its way in, checked. Make one with `parse`; the constructor checks fields but not their sum."""

    model_config = STRICT

    session_id: Name
    agent: Name
    text: Text | None = None
    input: _Input | None = None
    idempotency_key: Annotated[Name, AfterValidator(_key)] | None = None
    context: Context | None = None
    model: Model | None = None
    when: Annotated[When, BeforeValidator(_when)] = When.QUEUE
    merge_key: Name | None = None
    quiet_ms: Annotated[int, Field(ge=1, le=MAX_QUIET_MS)] | None = None
    available_at_ms: TimeMs | None = None

    @staticmethod
    def parse(values: Mapping[str, object]) -> SendRequest:
        """The request in `values`; InvalidInput or PayloadTooLarge names the first field that is wrong."""
        request = validated(SendRequest, values)
        if (request.text is None) == (request.input is None):
            problem = "is required" if request.text is None else "cannot be given together with input; choose one"
            raise InvalidInput("text", problem)
        if request.text is not None and not request.text.strip():
            raise InvalidInput("text", "must not be empty")
        if request.input is not None and not any(
            isinstance(item, _ImageRefItem) or item.text.strip() for item in request.input.items
        ):
            raise InvalidInput("input.items", "must hold an image or a text that is not empty")
        request._check_rule()
        return request

    def _check_rule(self) -> None:
        """What `when` needs and what does not go with it."""
        if self.when is When.MERGE and self.merge_key is None:
            raise InvalidInput("merge_key", "is required with when='merge'")
        for name in ("merge_key", "quiet_ms"):
            if self.when is not When.MERGE and getattr(self, name) is not None:
                raise InvalidInput(name, f"goes with when='merge' only, not with {self.when.value!r}")
        if self.available_at_ms is not None and self.quiet_ms is not None:
            raise InvalidInput("available_at_ms", "cannot be given together with a quiet period; choose one")
        if self.available_at_ms is not None and self.when is When.INTERRUPT:
            raise InvalidInput("available_at_ms", "cannot be given with when='interrupt', which is about now")
        if self.model is not None and self.when in (When.STEER, When.MERGE):
            problem = f"answers a whole turn, which input sent with {self.when.value!r} may share with other input"
            raise InvalidInput("model", problem)

    def turn_input(self) -> TurnInput:
        """What was sent, as the domain knows it."""
        if self.input is None:
            return TurnInput.of_text(self.text or "")
        items: list[InputItem] = [
            TextItem(item.text) if isinstance(item, _TextItem) else ImageRefItem(item.id) for item in self.input.items
        ]
        return TurnInput(tuple(items), self.input.image_blobs)


# ---------------------------------------------------------------- cancel


class CancelRequest(BaseModel):
    """A wish to cancel an input, named by its id or its key, or a turn. Make one with `parse`."""

    model_config = STRICT

    session_id: Name
    input_id: Name | None = None
    idempotency_key: Name | None = None
    turn_id: Name | None = None
    reason: Name = "cancelled by the caller"

    @staticmethod
    def parse(values: Mapping[str, object]) -> CancelRequest:
        """The request in `values`; InvalidInput names the first field that is wrong."""
        request = validated(CancelRequest, values)
        if [request.input_id, request.idempotency_key, request.turn_id].count(None) != 2:
            raise InvalidInput("input_id", "give exactly one of input_id, idempotency_key and turn_id")
        return request


# ---------------------------------------------------------------- refusals

_Request = TypeVar("_Request", bound=BaseModel)
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "bytes_type": "a base64 string",
    "dict_type": "an object",
    "list_type": "an array",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def validated(kind: type[_Request], values: Mapping[str, object]) -> _Request:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def _refusal(error: ErrorDetails) -> InvalidInput:
    """The sentence for what pydantic found. It tells the type of what was given, never the value."""
    field, kind, context = _path(error["loc"]), error["type"], error.get("ctx", {})
    if kind in _EXPECTED:
        return InvalidInput(field, f"must be {_EXPECTED[kind]}, not {_kind(error['input'])}")
    match kind:
        case "missing":
            return InvalidInput(field, "is required")
        case "extra_forbidden":
            return InvalidInput(field, "is not a known field")
        case "union_tag_invalid" | "union_tag_not_found":
            return InvalidInput(f"{field}.type", _ITEM_TYPES)
        case "greater_than_equal":
            return InvalidInput(field, f"must be at least {context['ge']}")
        case "less_than_equal":
            return InvalidInput(field, f"must be at most {context['le']}")
        case "value_error":
            return InvalidInput(field, str(context["error"]))
        case _:
            return InvalidInput(field, f"is not valid ({kind})")


def _path(location: tuple[int | str, ...]) -> str:
    """`input.items[0].text`, `input.image_blobs['a']`: where pydantic's location points in what was sent."""
    path, steps = "", list(location)
    while steps:
        step = steps.pop(0)
        if isinstance(step, int):
            path += f"[{step}]"
            if len(steps) > 1:
                steps.pop(0)  # the tag by which pydantic told the kinds of items apart
        elif path.endswith("image_blobs"):
            path += f"[{_shown(step)!r}]"
            steps.clear()
        else:
            path += f".{_shown(step)}" if path else _shown(step)
    return path


def _shown(name: str) -> str:
    """A name from outside, fit to stand in a sentence."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= _MAX_SHOWN else printable[:_MAX_SHOWN] + "…"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
