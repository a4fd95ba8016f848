"""Two deployments with different agents share a database, a Redis and a namespace.

The story: a worker's passes look only after the agents it has the code for, but a slot of time was taken for the whole
fleet. Whoever looked first in each second, and by their phases that is one and the same worker for minutes, kept
the others from ever sweeping: input of their agents whose doorbell was lost stayed where it was.
"""

from __future__ import annotations

from lash_tasks.clock import FakeClock
from lash_tasks.runtime.ticker import Tick, Ticker
from lash_tasks.stores.memory.slots import MemorySlots


def test_a_pass_over_other_agents_does_not_stand_in_for_ours() -> None:
    clock, ran = FakeClock(1_700_000_000_000), list[str]()
    slots = MemorySlots(clock)
    first = Ticker({"sweep": Tick(1.0, lambda: ran.append("first"))}, slots, clock, serves="billing")
    twin = Ticker({"sweep": Tick(1.0, lambda: ran.append("twin"))}, slots, clock, serves="billing")
    other = Ticker({"sweep": Tick(1.0, lambda: ran.append("other"))}, slots, clock, serves="support")

    for _ in range(3):
        for ticker in (first, twin, other):  # always in this order
            ticker.tick()
        clock.advance(1.0)

    assert ran == ["first", "other"] * 3
