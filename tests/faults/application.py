"""The application that the fault tests' workers run: agents whose tools leave a line for every attempt.

In version 2 (LASH_TEST_VERSION) the counter has another tool. The lines go to the file in LASH_TEST_TOOL_LOG. While
the file in LASH_TEST_HOLD exists, a tool whose text says `[hold]` does not return, and so with `[hold 2]` and the file
`hold 2` beside it; LASH_TEST_TOOL_MS is the longest that others take. With LASH_TEST_DIE_AT, one worker dies at that
crash point, at the passing LASH_TEST_DIE_PASSING: the one that removes the file in LASH_TEST_DIE_ONCE;
LASH_TEST_DIE_BY is the signal. LASH_TEST_CLOCK_OFFSET_MS sets the worker's clock wrong. LASH_TEST_CONNECTION_NAME is
what its connections are called in the database, with `{pid}` in it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import zlib
from collections import Counter
from pathlib import Path

from lash_tasks import Agent, Lash, Limits, OpenAI, SwitchFrame, ToolContext, tool
from lash_tasks.clock import SystemClock
from lash_tasks.runtime.crash_points import CrashPoint
from tests.faults.conversation import task_of

_log_lock = threading.Lock()
_passings: Counter[str] = Counter()


def _note(name: str, text: str, ctx: ToolContext) -> None:
    line = {"tool": name, "text": text, "session": ctx.session_id, "key": ctx.idempotency_key, "pid": os.getpid()}
    with _log_lock, open(os.environ["LASH_TEST_TOOL_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _hold(text: str) -> None:
    never = threading.Event()
    if marker := re.search(r"\[(hold(?: 2)?)\]", text):
        hold = Path(os.environ["LASH_TEST_HOLD"]).with_name(marker[1])
        while hold.exists():
            never.wait(0.02)
    longest = int(os.environ.get("LASH_TEST_TOOL_MS", "0"))
    never.wait(zlib.crc32(text.encode()) % (longest + 1) / 1000)


@tool
def lookup(text: str, ctx: ToolContext) -> str:
    """Look something up; safe to repeat."""
    _note("lookup", text, ctx)
    _hold(text)
    return f"found {text}"


@tool
def search(text: str, ctx: ToolContext) -> str:
    """What version 2 has in place of `lookup`."""
    _note("search", text, ctx)
    return f"found {text}"


@tool(on_crash="never")
def charge(text: str, ctx: ToolContext) -> str:
    """Charge somebody; never to be repeated blindly."""
    _note("charge", text, ctx)
    _hold(text)
    return f"charged {text}"


@tool
def move(text: str, ctx: ToolContext) -> SwitchFrame | str:
    """Go on in another frame, once."""
    _note("move", text, ctx)
    if text.startswith("task of "):
        return "arrived"
    return SwitchFrame(f"task of {text}", initial_messages=[{"role": "assistant", "text": f"it was about {text}"}])


@tool
def hand_over(text: str, ctx: ToolContext) -> SwitchFrame:
    """Go on with a task in another frame."""
    _note("hand_over", text, ctx)
    return SwitchFrame(task=task_of(text), initial_messages=[{"role": "assistant", "text": "so far so good"}])


def die_once(point: CrashPoint) -> None:
    if point != os.environ.get("LASH_TEST_DIE_AT"):
        return
    with _log_lock:
        _passings[point] += 1
        if _passings[point] < int(os.environ.get("LASH_TEST_DIE_PASSING", "1")):
            return
        try:
            os.unlink(os.environ["LASH_TEST_DIE_ONCE"])
        except FileNotFoundError:
            return
        # To this thread: a stop that is sent to the process may be taken by another one while this one goes on.
        signal.pthread_kill(threading.get_ident(), signal.Signals[os.environ.get("LASH_TEST_DIE_BY", "SIGKILL")])


def set_clock_wrong(offset_ms: int) -> None:
    """Let every clock of this process be off, as on a machine whose time is wrong."""
    now_ms = SystemClock.now_ms
    # The worker makes its clock itself, so there is no other way in.
    SystemClock.now_ms = lambda clock: now_ms(clock) + offset_ms  # type: ignore[assignment, method-assign]


set_clock_wrong(int(os.environ.get("LASH_TEST_CLOCK_OFFSET_MS", "0")))

if name := os.environ.get("LASH_TEST_CONNECTION_NAME"):
    options = {"connect_args": {"application_name": name.format(pid=os.getpid())}}
    os.environ["LASH_DATABASE_OPTIONS"] = json.dumps(options)

counts = search if os.environ.get("LASH_TEST_VERSION") == "2" else lookup
lash = Lash(
    agents=[
        Agent(name="counter", model="openai:test", instructions="Count.", tools=[counts]),
        Agent(name="busy", model="openai:test", instructions="Do it.", tools=[counts, charge, hand_over]),
        Agent(name="charger", model="openai:test", instructions="Charge.", tools=[charge]),
        Agent(name="mover", model="openai:test", instructions="Move.", tools=[move]),
        Agent(name="patient", model="narrow:test", instructions="Answer."),
    ],
    providers={"narrow": OpenAI(limits=Limits(concurrency=1))},
    reached=die_once,
)
app = lash.celery
app.conf.result_backend = os.environ.get("LASH_TEST_RESULT_BACKEND")
