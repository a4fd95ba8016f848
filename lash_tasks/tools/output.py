"""The output type of an agent: what the model is told of it, and whether an answer fits."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from lash_tasks.domain.codec import JsonObject, JsonValue, canonical, parse_value, scrub
from lash_tasks.machine.effects import OutputChecked
from lash_tasks.tools.exits import EXITS
from lash_tasks.tools.schema import value_schema

log = logging.getLogger(__name__)

MAX_PROBLEMS = 8
MAX_PROBLEM_CHARACTERS = 2000
_FENCED = re.compile(r"```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OutputType:
    """A type that answers have to be of."""

    schema: JsonObject
    _adapter: TypeAdapter[JsonValue]

    def check(self, text: str) -> OutputChecked:
        """The JSON value that an answer holds, alone or fenced, or what the model should mend. Never raises."""
        fenced = _FENCED.fullmatch(text.strip())
        try:
            value = parse_value(fenced[1] if fenced else text)
        except ValueError as error:
            return OutputChecked(problem=f"it {error}")
        try:
            self._adapter.validate_json(canonical(value))
        except ValidationError as error:
            return OutputChecked(problem=_words(error))
        except (Exception, *EXITS) as error:  # a validator of the user's own, on whatever a model may write
            log.warning("an output type raised", exc_info=True)
            return OutputChecked(problem=f"checking it raised {type(error).__name__}")
        return OutputChecked(value)


def read_output_type(label: str, annotation: JsonValue) -> OutputType:
    """The output type; ConfigurationError, beginning with `label`, for what gives no JSON schema."""
    return OutputType(value_schema(label, annotation), TypeAdapter(annotation))


def _words(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(('$', *map(str, one['loc'])))}: {one['msg']}" for one in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        lines.append(f"and {len(found) - MAX_PROBLEMS} more")
    words: str = scrub("; ".join(lines))[:MAX_PROBLEM_CHARACTERS]
    return words
