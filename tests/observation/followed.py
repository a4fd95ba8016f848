"""What a follower is told, in short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lash_tasks.observation.following import FollowEvent, follow
from tests.scene import SESSION, Scene

IDLE = 5.0


def events(scene: Scene, cursor: str | None = None, **options: Any) -> Iterator[FollowEvent]:
    return follow(scene.sources, SESSION, cursor, **{"idle_timeout": IDLE, **options})


def told(followed: Iterator[FollowEvent] | list[FollowEvent]) -> list[str]:
    """Events in short: `says x`, `committed x`, else the type."""
    return [brief(event) for event in followed]


def brief(event: FollowEvent) -> str:
    match event.type.value:
        case "assistant_prose_delta":
            return f"says {event.data['text']}"
        case "committed":
            return f"committed {event.data['assistant_output']['safe_text']}"
        case "reset":
            return f"reset to attempt {event.data['attempt']}"
        case "gap":
            return f"gap: {event.data['reason']}"
        case other:
            return other


def take(followed: Iterator[FollowEvent], count: int) -> list[FollowEvent]:
    return [next(followed) for _ in range(count)]
