"""A service that sends: a process of its own, which may be killed at any instant and goes on where its log ends.

`python -m tests.faults.sender --seed N --sessions N --threads N --pause-ms N --log FILE --stop FILE`. Every input has
an idempotency key and is sent until it is accepted or refused; then one line goes to the log. Ends when the file
`--stop` is there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from lash_tasks import Client
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import SilentDoorbell
from lash_tasks.domain.queue import CancelVerdict
from lash_tasks.errors import SessionBusy, StoreUnavailable
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_stores
from lash_tasks.wiring import client_parts
from tests.faults.traffic import AGENT, Acknowledged, Planned, acknowledged, planned, session_name

Outcome = TypeVar("Outcome")
RETRY_SECONDS = 0.1


class Sender:
    """One process's sending. Each thread has sessions of its own, so that a session's inputs follow one another."""

    def __init__(self, seed: int, pause_ms: int, log: Path, stop: Path) -> None:
        settings = Settings.from_environment()
        self._clock = SystemClock()
        self._ringing = Client(settings)
        stores = open_stores(settings, allow_memory_leases=True)
        self._silent = Client.from_parts(client_parts(settings, stores, SilentDoorbell(), self._clock, stores.close))
        self._seed = seed
        self._pause_ms = pause_ms
        self._stop = stop
        self._next = {line.session: line.number + 1 for line in acknowledged(log)}
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._never = threading.Event()

    def run(self, sessions: list[str]) -> None:
        """Send to these sessions in turn, a burst to each, until it is time to stop."""
        for session in itertools.cycle(sessions):
            plan = self._plan(session)
            self._clock.wait(self._never, plan.pause_ms / 1000)
            while True:
                if self._stop.exists():
                    return
                os.write(self._log, self._send(plan).line())
                self._next[session] = plan.number + 1
                plan = self._plan(session)
                if plan.pause_ms:
                    break

    def _plan(self, session: str) -> Planned:
        return planned(self._seed, session, self._next.get(session, 1), self._pause_ms)

    def close(self) -> None:
        self._ringing.close()
        self._silent.close()
        os.close(self._log)

    def _send(self, plan: Planned) -> Acknowledged:
        client = self._silent if plan.silent else self._ringing
        at_ms = self._clock.now_ms() + plan.delay_ms
        # The same key asks for the same input, so a delay is that of the try which was stored.
        available_at = datetime.fromtimestamp(at_ms / 1000, UTC) if plan.delay_ms else None

        def send() -> bool:
            if plan.command is not None:
                client.command(plan.session, plan.command, plan.arguments, idempotency_key=plan.key, agent=AGENT)
                return True
            try:
                client.send(
                    plan.session,
                    plan.text,
                    agent=AGENT,
                    idempotency_key=plan.key,
                    when=plan.when,
                    available_at=available_at,
                    context=None if plan.context is None else {"of": plan.context},
                    merge_key=plan.merge_key,
                    quiet=plan.quiet_ms / 1000 or None,
                )
            except SessionBusy:
                return False
            return True

        accepted = _until_answered(send)
        cancelled = False
        if accepted and plan.cancel:
            answer = _until_answered(lambda: client.cancel(plan.session, idempotency_key=plan.key))
            # Ended in no turn: by a cancel of before, whose answer was lost or whose sender was killed.
            again = answer.verdict is CancelVerdict.ENDED and answer.turn_id is None
            cancelled = again or answer.verdict is CancelVerdict.CANCELLED
        return Acknowledged(session=plan.session, number=plan.number, accepted=accepted, cancelled=cancelled)


def _until_answered(ask: Callable[[], Outcome]) -> Outcome:
    """What is asked for, once the database answers."""
    clock, never = SystemClock(), threading.Event()
    while True:
        try:
            return ask()
        except StoreUnavailable:
            clock.wait(never, RETRY_SECONDS)


def _end(raised: threading.ExceptHookArgs) -> None:
    """Let the process end with one of its threads, so that whoever started it sees it."""
    threading.__excepthook__(raised)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--seed", "--sessions", "--threads", "--pause-ms"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--log", "--stop"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    sender = _until_answered(lambda: Sender(options.seed, options.pause_ms, options.log, options.stop))
    shares = [
        [session_name(number) for number in range(first, options.sessions, options.threads)]
        for first in range(options.threads)
    ]
    threading.excepthook = _end
    threads = [threading.Thread(target=sender.run, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.close()


if __name__ == "__main__":
    main()
