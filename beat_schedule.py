"""The periodic table: which maintenance pass runs how often, on which queue. Data only."""

from typing import NamedTuple


class Periodic(NamedTuple):
    """One line of the table. `task` is the Celery task, `every_seconds` its interval and its message's expiry."""

    task: str
    every_seconds: float
    queue: str


BEAT_SCHEDULE: dict[str, Periodic] = {
    "lash-rescue": Periodic("lash.rescue", 1.0, "lash.maintenance"),
    "lash-sweep": Periodic("lash.sweep", 1.0, "lash.maintenance"),
    "lash-wake-due": Periodic("lash.wake_due", 1.0, "lash.maintenance"),
    "lash-prune": Periodic("lash.prune", 3600.0, "lash.maintenance"),
}
