"""The agents of this app: `lash.autodiscover()` imports the module and serves every Agent in it.

Tools and instructions use the ORM as a view does. Connections that are too old or broken are closed around each.
"""

from lash_tasks import Agent, TurnContext, tool
from orders.models import Order


@tool
def confirm(reference: str) -> str:
    """Confirm an order."""
    confirmed = Order.objects.filter(reference=reference, state="placed").update(state="confirmed")
    return "confirmed" if confirmed else "there is no such order that waits"


@tool
async def count_open() -> int:
    """How many orders are not confirmed yet."""
    waiting: int = await Order.objects.filter(state="placed").acount()
    return waiting


def instructions(turn: TurnContext) -> str:
    return f"You look after the orders of a shop, {Order.objects.count()} so far. Confirm each new one."


clerk = Agent("clerk", "openai:gpt-5-mini", instructions=instructions, tools=[confirm, count_open])
