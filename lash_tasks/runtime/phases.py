"""The phases of a turn, and who is told when each begins and ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.plugins import Hook
from lash_tasks.tools.exits import EXITS

log = logging.getLogger(__name__)


class RuntimeTurnPhase(StrEnum):
    """In their order; indented ones lie inside the one before (sessions §8.3). Each opening of a turn passes them."""

    CONTEXT_TRANSFORM = "context_transform"
    BEFORE_TURN_HOOKS = "before_turn_hooks"
    EFFECT_LOOP = "effect_loop"
    PROMPT_BUILD = "prompt_build"
    """Inside the effect loop, at its beginning."""
    FINALIZE_TURN = "finalize_turn"
    PERSIST_TURN = "persist_turn"
    FINAL_COMMIT = "final_commit"
    """Inside `persist_turn`."""
    POST_PERSIST_HOOKS = "post_persist_hooks"
    """Inside `persist_turn`, after the session was let go."""


class PhaseProbe(Protocol):
    """Is told of every phase of every turn of a worker. A phase that has begun ends exactly once, however it ends.

    Named phases are `plugin_hook.{hook}.{plugin}`, one for each call of a hook. Called in the turn's thread; what it
    raises is logged. A probe is an object of yours that has these two methods.
    """

    def begin(self, session_id: SessionId, turn_id: TurnId, phase: str) -> None: ...

    def end(self, session_id: SessionId, turn_id: TurnId, phase: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnPhases:
    """The phases of one opening of one turn."""

    probe: PhaseProbe | None
    session_id: SessionId
    turn_id: TurnId

    def during(self, phase: RuntimeTurnPhase) -> AbstractContextManager[None]:
        return nullcontext() if self.probe is None else self._told(self.probe, phase.value)

    def during_hook(self, hook: Hook, plugin: str) -> AbstractContextManager[None]:
        return nullcontext() if self.probe is None else self._told(self.probe, f"plugin_hook.{hook.value}.{plugin}")

    @contextmanager
    def _told(self, probe: PhaseProbe, phase: str) -> Iterator[None]:
        try:
            probe.begin(self.session_id, self.turn_id, phase)
        except (Exception, *EXITS):
            log.exception("a phase probe failed", extra={"phase": phase})
        try:
            yield
        finally:
            try:
                probe.end(self.session_id, self.turn_id, phase)
            except (Exception, *EXITS):
                log.exception("a phase probe failed", extra={"phase": phase})
