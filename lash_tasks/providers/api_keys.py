"""Where the key of a model server comes from: found at each call, kept nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import SecretStr

from lash_tasks.domain.turns import TurnContext
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers.named import EnvironmentVariable
from lash_tasks.settings import read_variable
from lash_tasks.tools.exits import EXITS

log = logging.getLogger(__name__)

FindKey = Callable[[TurnContext], str | None]


class KeySource:
    """The key of one server. `name` is what an error calls the place where the user sets it.

    With `required`, a missing key is refused here and not by the server. Shows no key in its repr.
    """

    def __init__(self, key: SecretStr | EnvironmentVariable | FindKey | None, *, name: str, required: bool) -> None:
        self._key = key
        self._name = name
        self._required = required

    def find(self, turn: TurnContext) -> str:
        """The key for a call in `turn`, empty for none; ProviderFailure of kind auth."""
        key = self._find(turn).strip()
        if not key and self._required:
            raise ProviderFailure(f"Set {self._name}", code="missing_api_key", kind="auth")
        if not (key.isascii() and key.isprintable()):
            raise ProviderFailure(
                f"{self._name} holds characters that no HTTP header can carry; set it again",
                code="invalid_api_key",
                kind="auth",
            )
        return key

    def _find(self, turn: TurnContext) -> str:
        if isinstance(self._key, EnvironmentVariable):
            value = read_variable(self._key.name)
            if value is None:
                message = f"Set {self._key.name}, which is {self._name}"
                raise ProviderFailure(message, code="missing_api_key", kind="auth")
            return value
        if isinstance(self._key, SecretStr):
            return self._key.get_secret_value()
        return "" if self._key is None else self._ask(self._key, turn)

    def _ask(self, find: FindKey, turn: TurnContext) -> str:
        try:
            key: object = find(turn)
        except (Exception, *EXITS) as error:
            # Without the error's own words and traceback: it handles keys.
            problem = f"raised {type(error).__name__}"
            log.warning("a key could not be found", extra={"key": self._name, "error": type(error).__name__})
        else:
            if key is None or isinstance(key, str):
                return key or ""
            problem = f"must return a string or None, not {type(key).__name__}"
        raise ProviderFailure(f"the function for {self._name} {problem}", code="api_key_failed", kind="auth")
