"""What the registrar refuses before a session comes to be."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import Agent, Client, Settings
from lash_tasks.errors import InvalidInput, NoWorkerHasRegistered, PayloadTooLarge, UnknownAgent
from lash_tasks.stores.sql import schema


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("initial_messages", {"initial_messages": ["word " * 150, "word " * 150]}),
        ("spec", {"spec": {"options": {"extra": {"words": "word " * 300}}}}),
    ],
)
def test_a_session_may_begin_with_no_more_than_an_input_holds(
    sqlite_url: str, fresh: bool, field: str, given: dict[str, Any]
) -> None:
    schema.upgrade(sqlite_url)
    with Client(Settings(database_url=sqlite_url, max_payload_bytes=1024)) as client:
        with pytest.raises(PayloadTooLarge) as refused:
            client.create_session("s", fresh=fresh, **given)
        assert refused.value.field == field
        assert client.create_session("s").revision == 0
        with pytest.raises(PayloadTooLarge):
            client.create_session("s", fresh=True, **given)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_session_is_created_for_an_agent_that_a_worker_has_registered(sqlite_url: str, fresh: bool) -> None:
    """A misspelt name was stored, and the session shown without a policy."""
    schema.upgrade(sqlite_url)
    with Client(Settings(database_url=sqlite_url)) as client:
        with pytest.raises(NoWorkerHasRegistered):
            client.create_session("s", agent="nobody", fresh=fresh)
        client.stores.fleet.register_agents([Agent("support", "scripted:echo").snapshot()])
        with pytest.raises(UnknownAgent, match="known agents: support"):
            client.create_session("s", agent="nobody", fresh=fresh)
        assert client.stores.sessions.sessions() == []
        client.create_session("s", agent="support", fresh=fresh)
        with pytest.raises(UnknownAgent):
            client.create_session("s", spec={"agent": "nobody"}, fresh=True)
        assert client.session("s").spec == {"agent": "support"}


@pytest.mark.parametrize("given", ["hello", 5, {"role": "user", "text": "hello"}])
def test_what_a_session_begins_with_is_a_list(sqlite_url: str, given: Any) -> None:
    """A text was taken for a list of its letters, each a message of its own."""
    schema.upgrade(sqlite_url)
    with (
        Client(Settings(database_url=sqlite_url)) as client,
        pytest.raises(InvalidInput, match="initial_messages: must be a list of messages"),
    ):
        client.create_session("s", initial_messages=given)
