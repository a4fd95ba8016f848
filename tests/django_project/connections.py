"""A program that calls tools in a Django project and prints which connection each call had.

A call answers with the id of its connection's server process, or with the failure. `age` makes the connection too old
when the call is over; `break` has the server end it in between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import django
from django.db import connection

from lash_tasks import Agent, TurnContext, tool
from lash_tasks.clock import SystemClock
from lash_tasks.django import tidy_agent, tidy_deps
from lash_tasks.domain.ids import CallId, SessionId, TurnId
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.ports import ToolInvocation
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.tools.dispatch import ToolDispatcher

Call = Callable[[bool], object]
CLOCK = SystemClock()


def _backend(age: bool) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = int(cursor.fetchone()[0])
    if age:
        connection.close_at = CLOCK.monotonic()
    return pid


@tool
def plain(age: bool) -> int:
    return _backend(age)


@tool
async def coroutine(age: bool) -> int:
    from asgiref.sync import sync_to_async

    return await sync_to_async(_backend)(age)


def instructions(turn: TurnContext) -> str:
    return str(_backend(bool(turn.context)))


def _calls() -> dict[str, Call]:
    agent = tidy_agent(Agent("a", "scripted:echo", instructions=instructions, tools=[plain, coroutine]))
    tools = ToolDispatcher({"a": agent}, clock=CLOCK, deps=tidy_deps(None), max_threads=1)
    session, turn = SessionId("s"), TurnId("t")

    def use(name: str) -> Call:
        def call(age: bool) -> object:
            invocation = ToolInvocation(
                session_id=session,
                turn_id=turn,
                call_id=CallId("c"),
                tool=name,
                arguments={"age": age},
                idempotency_key="k",
                context=None,
                timeout_seconds=30,
            )
            outcome = tools.run("a", invocation, TurnInterrupt(CLOCK))
            return outcome.value if outcome.status is ToolStatus.SUCCESS else "failed"

        return call

    def render(age: bool) -> object:
        context = TurnContext(session_id=session, turn_id=turn, turn_index=0, agent="a", context=age, admitted_at_ms=0)
        try:
            return int(agent.render(context))
        except Exception:
            return "failed"

    return {"plain": use("plain"), "coroutine": use("coroutine"), "instructions": render}


def _end(pid: object) -> None:
    """End a connection from the server's side, through another one."""
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    other.close()


def main() -> None:
    django.setup()
    seen: dict[str, list[object]] = {}
    for name, call in _calls().items():
        first, second, third = call(False), call(True), call(False)
        _end(third)
        seen[name] = [first, second, third, call(False), call(False)]
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
