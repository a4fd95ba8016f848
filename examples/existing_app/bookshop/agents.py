"""The shop's agent. Its tool hands work to the shop's own tasks, which go their own ways."""

from bookshop.tasks import Parcel, print_label
from lash_tasks import Agent, tool


@tool
def ship(address: str, book: str = "a surprise") -> str:
    """Ship a book to an address."""
    label = print_label.delay(Parcel(book, address))
    return f"label {label.id} is being printed"


clerk = Agent(name="clerk", model="openai:gpt-5-mini", instructions="You sell books.", tools=[ship])
