"""Writes docs/settings.md and docs/errors.md from the code that they describe: `python docs/generate.py`.

What a setting or a code means stands below it in the source, as a docstring of the field.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from lash_tasks import errors, settings

DOCS = Path(__file__).resolve().parent

SETTINGS = """\
<!-- Written by docs/generate.py from the code: change it there. -->
# Settings

All settings come from the environment. A value that is wrong stops the process at its start, with one sentence that
names the variable. The settings of the Celery app are on [another page](celery.md). What an application
names with `env("…")` as the key of a model server is read at each model call.

| variable | default | meaning |
|---|---|---|
{rows}
"""

ERRORS = """\
<!-- Written by docs/generate.py from the code: change it there. -->
# Error codes

Codes keep their meaning; sentences may change. Match on `error.code`. All exceptions derive from `LashError`.

## Of exceptions

A client raises them, `lash-tasks --json` prints them as `{{"error": {{"code": …, "message": …}}}}` and exits with 1,
and an ingress task fails with them. Where *again* says yes, the same call may succeed later.

| code | exception | again | meaning |
|---|---|---|---|
{exceptions}

## Inside a committed turn

A turn that met a problem is committed nevertheless. `turn.errors` lists the problems, `turn.ok` says whether the turn
finished, and `turn.tool_calls` has what became of each call.

| code | meaning |
|---|---|
{issues}

A failed model call carries the code of its server or its provider, such as `rate_limit_exceeded`, `missing_api_key`
or `timeout`, or else the HTTP status.
"""


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {"settings.md": settings_page(), "errors.md": errors_page()}


def settings_page() -> str:
    rows = []
    meanings = field_docstrings(settings, "Settings")
    for field, variable in settings.VARIABLES.items():
        default = settings.Settings.model_fields[field].default
        shown = f"{default:g}" if isinstance(default, float) else default
        rows.append(f"| `{variable}` | {'unset' if default in (None, '') else f'`{shown}`'} | {meanings[field]} |")
    return SETTINGS.format(rows="\n".join(rows))


def errors_page() -> str:
    raised = {error.code: error for error in _errors(errors.LashError) if "code" in vars(error)}
    meanings = field_docstrings(errors, "ErrorCode")
    exceptions, issues = [], []
    for code in errors.ErrorCode:
        if code in raised:
            error = raised[code]
            again = "yes" if error.retryable else ""
            exceptions.append(f"| `{code}` | `{error.__name__}` | {again} | {meanings[code.name]} |")
        else:
            issues.append(f"| `{code}` | {meanings[code.name]} |")
    return ERRORS.format(exceptions="\n".join(exceptions), issues="\n".join(issues))


def field_docstrings(module: ModuleType, name: str) -> dict[str, str]:
    """What stands below each field of a class, on one line."""
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for field, text in pairwise(body):
        match field, text:
            case (
                (ast.AnnAssign(target=ast.Name(id=target)) | ast.Assign(targets=[ast.Name(id=target)])),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                found[target] = " ".join(said.split())
    return found


def _errors(root: type[errors.LashError]) -> Iterator[type[errors.LashError]]:
    for error in root.__subclasses__():
        yield error
        yield from _errors(error)


if __name__ == "__main__":
    for file, text in pages().items():
        (DOCS / file).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/{file}\n")
