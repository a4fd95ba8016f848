"""A small application: one agent, two tools. `celery -A support worker -P threads` runs it from this directory."""

from lash_tasks import Agent, Lash, ToolContext, tool


@tool
def lookup_order(order_id: str) -> dict[str, str]:
    """Look an order up by its id."""
    return {"order_id": order_id, "state": "shipped"}


@tool(on_crash="never")
def charge_card(order_id: str, cents: int, ctx: ToolContext) -> str:
    """Charge the customer. ctx.idempotency_key is the same for every attempt of this one call."""
    return f"charged {cents} for {order_id} ({ctx.idempotency_key})"


lash = Lash(
    agents=[
        Agent(
            name="support",
            model="openai:gpt-5-mini",
            instructions="Answer briefly.",
            tools=[lookup_order, charge_card],
        )
    ]
)
app = lash.celery
