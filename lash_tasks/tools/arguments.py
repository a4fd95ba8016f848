"""A model's arguments turned into the keyword arguments of a tool, or into one message that the model can act on."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lash_tasks.domain.codec import JsonObject, canonical, scrub
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.text import cut

_MAX_PROBLEMS = 20
_MAX_INPUT = 100
_MAX_PROBLEM = 300


class InvalidArguments(Exception):
    """The arguments do not fit the tool. The message is for the model: field paths and problems."""


def validate_arguments(tool: Tool[..., object], arguments: JsonObject) -> dict[str, object]:
    """Keyword arguments for the visible parameters of `tool`, defaults filled in; raises InvalidArguments.

    They are validated as the JSON that the model wrote, so that dates, tuples and enums are read as such.
    """
    try:
        text = canonical(scrub(arguments))
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(f"the arguments of {tool.name} are not JSON: {cut(str(error), _MAX_PROBLEM)}") from None
    try:
        model = tool.signature.arguments.model_validate_json(text)
    except ValidationError as error:
        raise InvalidArguments(_message(tool.name, error)) from None
    return {name: getattr(model, field) for name, field in tool.signature.fields.items()}


def _message(name: str, error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    lines = [f"the arguments of {name} are not valid; correct them and call again:"]
    lines += [_line(problem) for problem in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"- and {len(problems) - _MAX_PROBLEMS} more")
    return "\n".join(lines)


def _line(problem: ErrorDetails) -> str:
    path = cut(".".join(str(step) for step in problem["loc"]), _MAX_INPUT) or "arguments"
    line = f"- {path}: {cut(problem['msg'], _MAX_PROBLEM)}"
    value = problem["input"]
    if isinstance(value, str | int | float) and problem["type"] != "extra_forbidden":
        line += f" (got {cut(repr(value), _MAX_INPUT)})"
    return line
