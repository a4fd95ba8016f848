"""A load of many sessions at once, what it must leave behind, and the loss of a server in the middle of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from lash_tasks.client import Client, Receipt
from tests.faults.cluster import Cluster, WorkerProcess
from tests.services import wait_until

SESSIONS = 20
ROUNDS = 3


def send_round(client: Client, number: int) -> list[Receipt]:
    return [client.send(f"load-{n}", f"s{n} m{number}", agent="counter") for n in range(SESSIONS)]


def check_answers(cluster: Cluster, client: Client, *others: str, sessions: int = SESSIONS) -> None:
    """Every message once, in order, and paid for once; `others` are texts of other sessions."""
    for n in range(sessions):
        assert cluster.answers(client, f"load-{n}") == [f"answer: s{n} m{number}" for number in range(ROUNDS)]
    texts = [*others, *(f"s{n} m{number}" for n in range(sessions) for number in range(ROUNDS))]
    assert cluster.tool_counts() == Counter(texts), "a tool ran again: was a running turn dropped?"
    assert cluster.model_calls() == Counter({(text, call): 1 for text in texts for call in (1, 2)})
    assert cluster.unfinished(client) == 0


def run_with_loss(cluster: Cluster, lose: Callable[[], None]) -> list[WorkerProcess]:
    """Keep a turn inside a held tool, load two workers, lose a server twice, and look at what came out."""
    held = "kept [hold]"
    cluster.hold.touch()
    with cluster.worker() as one, cluster.worker() as two, cluster.client() as client:
        running = client.send("running", held, agent="counter")
        wait_until(lambda: cluster.tool_counts()[held] == 1, 20, "the held tool to begin")
        receipts = send_round(client, 0)
        for number in range(1, ROUNDS):
            lose()
            receipts += send_round(client, number)
        for receipt in receipts:
            assert receipt.result(timeout=90).ok
        cluster.hold.unlink()
        assert running.result(timeout=30).ok
        assert one.running
        assert two.running
        check_answers(cluster, client, held)
    return [one, two]
