"""Two applications whose environments name one SQLite file, each in its namespace."""

from __future__ import annotations

from pathlib import Path

from lash_tasks import Agent, Client, Lash, Settings


def test_two_namespaces_run_at_once_and_share_no_session(tmp_path: Path, sqlite_url: str) -> None:
    one, other = (Settings(database_url=sqlite_url, namespace=name) for name in ("one", "other"))
    agent = Agent("support", "scripted:echo")
    with (
        Lash([agent], embedded=True, settings=one) as here,
        Lash([agent], embedded=True, settings=other),
        Client(other) as there,
    ):
        assert here.client.send("s", "hello", agent="support", idempotency_key="k").result(timeout=30).ok
        assert there.stores.sessions.sessions() == []
        receipt = there.send("s", "you there", agent="support", idempotency_key="k")
        assert receipt.created
        assert receipt.result(timeout=30).text == "You said: you there"
    assert {path.name for path in tmp_path.glob("*.db")} == {"lash.one.db", "lash.other.db"}
