"""Two workers under load: every message is answered once, in order, and paid for once."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.load import ROUNDS, check_answers

SESSIONS = 40


@pytest.mark.timeout(180)
def test_every_message_of_forty_sessions_is_answered_once_and_in_order(cluster: Cluster) -> None:
    with cluster.worker(), cluster.worker(), cluster.client() as client:
        receipts = []
        for number in range(ROUNDS):
            for session in range(SESSIONS):
                text, key = f"s{session} m{number}", f"key-{session}-{number}"
                receipt = client.send(f"load-{session}", text, agent="counter", idempotency_key=key)
                if (session + number) % 5 == 0:
                    again = client.send(f"load-{session}", text, agent="counter", idempotency_key=key)
                    assert (again.input_id, again.created) == (receipt.input_id, False)
                receipts.append(receipt)
        for receipt in receipts:
            assert receipt.result(timeout=120).ok
        check_answers(cluster, client, sessions=SESSIONS)
