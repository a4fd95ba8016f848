"""Server-sent events, decoded from bytes as they arrive."""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLarge(Exception):
    """One event is larger than the decoder's limit."""


class SseDecoder:
    """Yields the data of each event. One decoder reads one stream.

    Works on complete lines of bytes, so a character that is split across two chunks is whole again before it is
    decoded. Everything but `data` is ignored.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """The events that `chunk` completes; EventTooLarge when the one under way passes the limit."""
        events: list[str] = []
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._grow(end)
            events += self._take_line()
        self._grow(rest)
        return events

    def flush(self) -> list[str]:
        """The event that the end of the stream completes, if there is one."""
        return self._take_line() + self._take_event()

    def _grow(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise EventTooLarge(self._limit)
        self._line += piece

    def _take_line(self) -> list[str]:
        size, line = len(self._line), bytes(self._line).rstrip(b"\r")
        self._line.clear()
        if not line:
            return self._take_event()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.strip())
        else:
            self._size -= size
        return []

    def _take_event(self) -> list[str]:
        data, self._data, self._size = self._data, [], 0
        return [b"\n".join(data).decode("utf-8", "replace")] if data else []
