"""The application whose workers are measured: `celery -A lash_tasks.bench.application worker -P threads`."""

from __future__ import annotations

from lash_tasks.app import Lash
from lash_tasks.bench import workload
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import tool


@tool
def lookup_order(order_id: str) -> dict[str, str]:
    """Look an order up by its id."""
    return workload.look_up(order_id)


def _agent(name: str, model: str) -> Agent:
    return Agent(name=name, model=f"openai:{model}", instructions=workload.INSTRUCTIONS, tools=[lookup_order])


lash = Lash(
    agents=[
        _agent(workload.AGENT, workload.MODEL),
        _agent(workload.DELAYED_AGENT, workload.DELAYED_MODEL),
        _agent(workload.HELD_AGENT, workload.HELD_MODEL),
    ],
    name="lash-bench",
)
app = lash.celery
