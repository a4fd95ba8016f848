"""Every key that we keep in Redis. Each has a time to live; a stream has a length bound besides."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.domain.ids import SessionId


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one application: `lash:<namespace>:<kind>:<name>`, also where the namespace is empty."""

    namespace: str = ""

    def lease(self, scope: str) -> str:
        """A string: the holder's token, and `!` behind it once somebody was turned away."""
        return f"lash:{self.namespace}:lease:{scope}"

    def slot(self, name: str) -> str:
        """A string, there while the slot is taken."""
        return f"lash:{self.namespace}:slot:{name}"

    def live(self, session_id: SessionId) -> str:
        """A stream, the session's newest live events."""
        return f"lash:{self.namespace}:live:{session_id}"

    def admissions(self, provider: str) -> tuple[str, ...]:
        """The six keys of a provider's account, in the order in which the scripts take them."""
        kinds = ("running", "started", "costs", "queue", "seen", "state")
        return tuple(f"lash:{self.namespace}:limit:{provider}:{kind}" for kind in kinds)
