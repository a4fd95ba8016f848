"""Leaving in order: nothing new is claimed, effects in flight get their grace, then turns are given up (design §5)."""

from __future__ import annotations

import logging

from lash_tasks.runtime.worker import Doing, Worker

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 5.0
"""For interrupted turns to give up, release and ring."""


def drain(worker: Worker, grace_seconds: float) -> bool:
    """Drain the worker; whether every turn ended or was given up in time.

    Who waits for a provider's limits can do so elsewhere. A model call can be paid again, so it gets half of the grace;
    tools get all of it. What was interrupted is at-least-once (or, for `never` tools, unknown) and is logged.
    """
    worker.begin_drain()
    waiting = worker.interrupt_all(Doing.WAITING)
    if waiting:
        log.info("turns that wait for a provider are given up by the drain", extra={"turns": waiting})
    if worker.wait_until_idle(grace_seconds / 2):
        return True
    calls = worker.interrupt_all(Doing.MODEL_CALL)
    if calls:
        log.warning("model calls are interrupted by the drain", extra={"turns": calls})
    if worker.wait_until_idle(grace_seconds / 2):
        return True
    rest = worker.interrupt_all()
    log.warning("turns are interrupted by the drain", extra={"turns": rest})
    return worker.wait_until_idle(LAST_WORDS_SECONDS)
