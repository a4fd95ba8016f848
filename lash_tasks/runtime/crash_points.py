"""The named places where a worker may die; a test stops at each and proves that nothing changes but time."""

from __future__ import annotations

from enum import StrEnum


class CrashPoint(StrEnum):
    """In the order in which a turn passes them. An effect passes its own for every kind."""

    AFTER_LEASE = "after_lease"
    AFTER_OPEN = "after_open"
    BEFORE_EFFECT = "before_effect"
    AFTER_BEGUN = "after_begun"
    AFTER_PERFORM = "after_perform"
    AFTER_RECORD = "after_record"
    AFTER_CHECKPOINT = "after_checkpoint"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    AFTER_ANNOUNCE = "after_announce"
    AFTER_RELEASE = "after_release"


def nothing_happens(point: CrashPoint) -> None:
    """What the runtime does at a crash point outside of tests."""
