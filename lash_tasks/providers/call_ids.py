"""Ids of tool calls as one vendor takes them back: a history may hold those of another one."""

from __future__ import annotations

import re
from collections import Counter

from lash_tasks.domain.codec import digest
from lash_tasks.domain.ids import CallId


class CallIds:
    """The ids of one request, given out in the order of its messages. The same history gets the same ids.

    An id that `fits` stays. Any other becomes a digest of itself, and with `unique` so does one that an earlier call
    of the history has, for a vendor that refuses such a session for good. A result gets the id of the last call
    that it can answer.
    """

    def __init__(self, fits: re.Pattern[str], *, unique: bool) -> None:
        self._fits = fits
        self._unique = unique
        self._seen: Counter[CallId] = Counter()
        self._latest: dict[CallId, str] = {}

    def of_call(self, call_id: CallId) -> str:
        nth = self._seen[call_id] if self._unique else 0
        self._seen[call_id] += 1
        self._latest[call_id] = sent = self._sendable(call_id, nth)
        return sent

    def of_result(self, call_id: CallId) -> str:
        return self._latest.get(call_id) or self._sendable(call_id, 0)

    def _sendable(self, call_id: CallId, nth: int) -> str:
        if nth == 0 and self._fits.fullmatch(call_id):
            return call_id
        return f"call_{digest([call_id, nth])[:24]}"
