"""The signature of a tool read once: the JSON schema of its arguments, their validator, the writer of its results.

The schema is part of the agent's snapshot and hashed, so the same code gives the same schema in every process.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaWarningKind
from pydantic_core import CoreConfig, SchemaSerializer

from lash_tasks.domain.codec import JsonObject, JsonValue, canonical
from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.context import ToolContext

_BY_NAME = frozenset({"properties", "patternProperties", "$defs"})
_NO_SCHEMA = (PydanticUserError, PydanticUndefinedAnnotation, TypeError)
_DATA = frozenset({"default", "const", "enum", "examples"})
_KINDS: Mapping[object, str] = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only; a model names its arguments, so remove the '/'",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values; name each parameter, or take a list",
    inspect.Parameter.VAR_KEYWORD: "takes any name; name each parameter, or take a dict",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """What the runtime knows of a tool's parameters and result."""

    parameters: JsonObject
    """JSON schema of the arguments object."""
    arguments: type[BaseModel]
    """Validates the arguments object; its fields carry the parameters' names as aliases."""
    fields: Mapping[str, str]
    """Parameter name to field name of `arguments`."""
    hidden: tuple[str, ...]
    """Parameters that take the ToolContext."""
    result: SchemaSerializer
    """Writes results as JSON data; NaN and infinity stay what they are, so that they can be refused."""


def read_signature(function: Callable[..., object]) -> Signature:
    """The signature of `function`; ConfigurationError names the function and the parameter that cannot be used."""
    label = function_label(function)
    plain = inspect.unwrap(function)
    fields: dict[str, str] = {}
    definitions: dict[str, JsonValue] = {}
    hidden: list[str] = []
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        what = f"parameter {parameter.name!r}"
        if problem := _KINDS.get(parameter.kind):
            raise ConfigurationError(f"{label}: {what} {problem}")
        if parameter.annotation is inspect.Parameter.empty:
            if parameter.name in ("self", "cls"):
                raise ConfigurationError(f"{label}: a method cannot be a tool; write a function outside of the class")
            raise ConfigurationError(f"{label}: {what} has no annotation; add the type that the model should send")
        annotation = _resolve(label, what, plain, parameter.annotation)
        if annotation is ToolContext:
            hidden.append(parameter.name)
            continue
        _check(label, what, annotation, "validation")
        field = f"p{len(fields)}"
        fields[parameter.name] = field
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        definitions[field] = (Annotated[annotation, Field(alias=parameter.name)], default)
    arguments = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **definitions)
    return Signature(
        parameters=_without_titles({"properties": {}, **arguments.model_json_schema(schema_generator=_Schema)}),
        arguments=arguments,
        fields=fields,
        hidden=tuple(hidden),
        result=_result_serializer(label, plain, signature.return_annotation),
    )


def value_schema(label: str, annotation: JsonValue) -> JsonObject:
    """The JSON schema of what a model should answer; ConfigurationError for a type that gives none."""
    try:
        adapter: TypeAdapter[JsonValue] = TypeAdapter(annotation)
        schema: JsonObject = _without_titles(adapter.json_schema(schema_generator=_Schema))
    except _NO_SCHEMA as error:
        raise ConfigurationError(
            f"{label}: output_type {_type_name(annotation)} gives no JSON schema ({_reason(error)}); "
            "use a type that pydantic can describe"
        ) from error
    return schema


def function_label(function: Callable[..., object]) -> str:
    """How errors name the function."""
    return f"tool function {function.__module__}.{function.__qualname__}"


def _result_serializer(label: str, function: Callable[..., object], annotation: JsonValue) -> SchemaSerializer:
    resolved = JsonValue
    if annotation is not inspect.Signature.empty:
        resolved = _resolve(label, "the result", function, annotation)
        _check(label, "the result", resolved, "serialization")
    # The adapter's own serializer writes a NaN that no float annotation announces as null, without a word.
    return SchemaSerializer(TypeAdapter(resolved).core_schema, CoreConfig(ser_json_inf_nan="constants"))


def _resolve(label: str, what: str, function: Callable[..., object], annotation: JsonValue) -> JsonValue:
    """The annotation as a type, also where it is text (`from __future__ import annotations`)."""
    holder = SimpleNamespace(__annotations__={"annotation": annotation})
    names = getattr(function, "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["annotation"]
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise ConfigurationError(
            f"{label}: the annotation of {what}, {annotation!r}, cannot be resolved ({error}); "
            "import or define its names at the top of the module"
        ) from error


def _check(label: str, what: str, annotation: JsonValue, mode: JsonSchemaMode) -> None:
    try:
        TypeAdapter(annotation).json_schema(schema_generator=_Schema, mode=mode)
    except _NO_SCHEMA as error:
        raise ConfigurationError(
            f"{label}: {what} is annotated {_type_name(annotation)}, which gives no JSON schema ({_reason(error)}); "
            "use types that pydantic can describe, or ToolContext alone for the context of the call"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].partition(". ")[0].rstrip(".")


def _type_name(annotation: JsonValue) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


class _Schema(GenerateJsonSchema):
    """pydantic's schema, silent about defaults that JSON cannot carry (they are left out), with sets in order."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        if kind != "non-serializable-default":
            super().emit_warning(kind, detail)

    def encode_default(self, dft: JsonValue) -> JsonValue:
        encoded = super().encode_default(dft)
        return sorted(encoded, key=canonical) if isinstance(dft, set | frozenset) else encoded


def _without_titles(schema: JsonValue) -> JsonValue:
    """The schema without pydantic's titles, which only repeat the names."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: JsonObject = {}
    for key, value in schema.items():
        if key in _BY_NAME:
            kept[key] = {name: _without_titles(item) for name, item in value.items()}
        elif key in _DATA:
            kept[key] = value
        elif key != "title":
            kept[key] = _without_titles(value)
    return kept
