"""Finding the user's application from `-A` or LASH_APP."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from lash_tasks.app import Lash, find_lash
from lash_tasks.errors import ConfigurationError


def load_application(name: str | None) -> Lash:
    """The Lash that `module` or `module:attribute` is or carries; ConfigurationError says what to change."""
    if not name:
        raise ConfigurationError("name your application: lash-tasks -A module[:attribute] …, or set LASH_APP")
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise ConfigurationError(f"there is no module {module_name!r} here; check -A or LASH_APP") from None
    for part in attribute.split(".") if attribute else ():
        if not hasattr(target, part):
            raise ConfigurationError(f"module {module_name!r} has no attribute {attribute!r}; check -A or LASH_APP")
        target = getattr(target, part)
    found = find_lash(target)
    if found is None:
        raise ConfigurationError(f"{name!r} holds no Lash; point -A at the module or attribute that does")
    return found
