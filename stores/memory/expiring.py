"""Keys with a time to live, as Redis has them."""

from __future__ import annotations

from lash_tasks.clock import Clock

SWEEP_ABOVE = 1024


class ExpiringKeys:
    """Texts by key, each until its time is up. Not locked: the owner holds a lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[str, float]] = {}
        self._sweep_above = SWEEP_ABOVE

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> str | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, deadline = entry
        if deadline <= self._clock.monotonic():
            del self._entries[key]
            return None
        return value

    def put(self, key: str, value: str, ttl_ms: int) -> None:
        self._entries[key] = (value, self._clock.monotonic() + ttl_ms / 1000)
        if len(self._entries) > self._sweep_above:
            self._sweep()

    def remove(self, key: str) -> None:
        self._entries.pop(key, None)

    def _sweep(self) -> None:
        """Drop what nobody will ask for again; rarely enough that a put stays cheap."""
        now = self._clock.monotonic()
        self._entries = {key: entry for key, entry in self._entries.items() if entry[1] > now}
        self._sweep_above = max(SWEEP_ABOVE, 2 * len(self._entries))
