"""What a service does with sessions themselves, on both databases: create, fork, configure, begin anew, delete."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from lash_tasks import Agent, tool
from lash_tasks.domain.codec import canonical, parse
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.errors import (
    HeadRevisionConflict,
    InvalidInput,
    NotFound,
    SessionAlreadyExists,
    SessionBusy,
    SessionDeleted,
    SessionMismatch,
)
from lash_tasks.settings import Settings
from tests.integration.test_client import Service

PATIENCE = 20.0


@tool
def look() -> str:
    """Look."""
    return "seen"


@tool
def charge() -> str:
    """Charge."""
    return "charged"


SUPPORT = Agent("support", "scripted:echo", instructions="Answer.", tools=[look, charge])


@pytest.fixture(params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """SQLite with the stand-ins of one process, Postgres with Redis."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    redis_url = None if request.param == "sqlite" else request.getfixturevalue("redis_url")
    service = Service(Settings(database_url=url, redis_url=redis_url, lease_ttl=0.6, drain_grace=0))
    service.client.stores.fleet.register_agents([SUPPORT.snapshot()])
    with service.client, service.working(SUPPORT):
        yield service


def ask(service: Service, session_id: str, said: str) -> str:
    turn = service.client.send(session_id, said, agent="support").result(timeout=PATIENCE)
    assert turn.ok, turn
    return turn.text


def said(service: Service, session_id: str) -> list[str]:
    nodes = service.client.stores.sessions.history(SessionId(session_id))
    return [text for stored in nodes if stored.node.message and (text := text_of(stored.node.message))]


def test_a_created_session_is_returned_with_the_policy_of_its_turns(service: Service) -> None:
    client = service.client
    info = client.create_session(agent="support", name="Kim", spec={"max_turns": 2, "instructions": "Be brief."})
    assert (info.name, info.turn_index, info.relation) == ("Kim", 0, {"kind": "root"})
    assert info.created_at.endswith("Z")
    assert info.policy is not None
    assert (info.policy.model, info.policy.max_turns) == ("scripted:echo", 2)
    assert info.policy.appended_instructions == "Be brief."
    assert client.session(info.session_id) == info
    with pytest.raises(SessionAlreadyExists):
        client.create_session(info.session_id)
    with pytest.raises(NotFound):
        client.session("nobody")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"caused_by": {}}, "caused_by"),
        ({"usage_source": "x"}, "usage_source"),
        ({"start": "current_session"}, "parent"),
        ({"start": "existing_session"}, "source"),
        ({"start": "snapshot"}, "start"),
        ({"source": "s2"}, "source"),
        ({"parent": "s1"}, "parent"),
        ({"initial_messages": [""]}, "initial_messages"),
        ({"spec": {"provider": {"api_key": "k"}}}, "spec.provider"),
        ({"fresh": True, "parent": "p"}, "fresh"),
        ({"fresh": True, "expected_revision": "x"}, "expected_revision"),
        ({"fresh": True, "expected_revision": -1}, "expected_revision"),
        ({"fresh": True, "expected_revision": True}, "expected_revision"),
        ({"expected_revision": 1}, "expected_revision"),
        ({"session_id": " "}, "session_id"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(service: Service, values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        service.client.create_session(**{"session_id": "s1", **values})  # type: ignore[arg-type]
    assert refused.value.field == field
    assert service.client.stores.sessions.sessions() == []


def test_what_is_configured_counts_from_the_next_turn_on(service: Service) -> None:
    client = service.client
    ask(service, "s1", "hello")
    done = client.configure("s1", max_turns=2, tools=["look"]).result(timeout=PATIENCE)
    assert done.output is not None
    assert done.output["current"]["tools"] == ["look"]
    policy = client.session("s1").policy
    assert policy is not None
    assert (policy.max_turns, policy.tools) == (2, ("look",))
    client.configure("s1", inherit=False).result(timeout=PATIENCE)
    assert client.session("s1").spec == {}


@pytest.mark.shows("S8")
def test_a_session_that_begins_anew_has_only_what_is_new(service: Service) -> None:
    ask(service, "s1", "old")
    info = service.client.create_session("s1", fresh=True)
    assert (info.turn_index, info.first_user_message) == (1, None)
    assert said(service, "s1") == []
    ask(service, "s1", "new")
    assert said(service, "s1")[0] == "new"
    assert "old" not in said(service, "s1")
    assert service.client.create_session("s2", fresh=True).revision == 0


@pytest.mark.shows("S9")
def test_a_session_begins_anew_from_the_revision_that_its_user_knows_or_not_at_all(service: Service) -> None:
    client = service.client
    ask(service, "s1", "one")
    known = client.session("s1").revision
    ask(service, "s1", "two")
    with pytest.raises(HeadRevisionConflict):
        client.create_session("s1", fresh=True, expected_revision=known)
    assert len(said(service, "s1")) == 4
    client.create_session("s1", fresh=True, expected_revision=client.session("s1").revision)
    assert said(service, "s1") == []
    client.delete_session("s1")
    for gone in ("s1", "never-was"):
        with pytest.raises(HeadRevisionConflict):
            client.create_session(gone, fresh=True, expected_revision=known)


def test_a_session_that_begins_anew_has_the_name_that_it_is_given_or_keeps_its_own(service: Service) -> None:
    client = service.client
    client.create_session("s1", name="Kim")
    assert client.create_session("s1", fresh=True).name == "Kim"
    assert client.create_session("s1", fresh=True, name="Robin").name == "Robin"


def test_a_session_whose_first_input_waits_cannot_begin_anew(service: Service) -> None:
    client = service.client
    sent = client.send("s1", "hello", agent="support", available_at=datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(SessionBusy):
        client.create_session("s1", fresh=True)
    assert sent.status().state == "queued"


@pytest.mark.shows("S12")
def test_a_copy_of_another_session_has_all_of_it_and_is_a_child_of_nobody_unless_it_is_said_so(
    service: Service,
) -> None:
    client = service.client
    ask(service, "src", "hello")
    ask(service, "parent", "something else")
    copied = [*said(service, "src"), "go on"]
    alone = client.create_session(start="existing_session", source="src", initial_messages=["go on"])
    assert (said(service, alone.session_id), alone.relation) == (copied, {"kind": "root"})
    child = client.create_session(start="existing_session", source="src", parent="parent", initial_messages=["go on"])
    assert (said(service, child.session_id), child.parent_id) == (copied, "parent")


@pytest.mark.shows("C1")
def test_a_session_is_shown_as_it_rests(service: Service) -> None:
    client = service.client
    client.create_session("s1", agent="support", spec={"tools": ["look"]})
    ask(service, "s1", "hello")
    data = client.snapshot("s1").as_json()
    assert parse(canonical(data)) == data
    assert (data["session_id"], data["turn_index"], data["policy"]["tools"]) == ("s1", 1, ["look"])
    assert [node["node_id"] for node in data["session_graph"]["nodes"]] == ["m1.0", "m1.1"]
    with pytest.raises(NotFound):
        client.snapshot("nobody")


@pytest.mark.shows("S12", "S15")
def test_a_child_goes_on_from_what_its_parent_shows_without_the_tools_it_may_not_use(service: Service) -> None:
    client = service.client
    ask(service, "parent", "call charge {}")
    child = client.create_session(parent="parent", start="current_session", spec={"tools": ["look"]})
    assert said(service, child.session_id) == said(service, "parent")
    assert child.policy is not None
    assert child.policy.tools == ("look",)
    turn = client.send(child.session_id, "call charge {}", agent="support").result(timeout=PATIENCE)
    assert turn.ok
    assert turn.tool_calls == ()  # the model knows of no such tool
    assert turn.turn_index == 2
    assert [one.session_id for one in client.children("parent")] == [child.session_id]
    assert client.session("parent").turn_index == 1


@pytest.mark.shows("P19")
@pytest.mark.raises_code("session_mismatch")
def test_a_childs_turn_with_ids_of_another_is_refused_and_so_is_a_second_one_at_the_same_time(
    service: Service,
) -> None:
    client = service.client
    client.create_session("parent")
    client.create_session("other")
    client.create_session("child", parent="parent")
    with pytest.raises(SessionMismatch):
        client.send("child", "hello", agent="support", parent="other")
    assert service.inputs() == 0
    first = client.send("child", "slow", agent="support", parent="parent")
    with pytest.raises(NotFound):
        client.receipt("other", input_id=first.input_id)
    turn = first.result(timeout=PATIENCE)
    with pytest.raises(NotFound):
        client.cancel("other", turn_id=turn.turn_id)
    later = client.send("child", "[slow 2]", agent="support", parent="parent")
    with pytest.raises(SessionBusy):
        client.send("child", "now", agent="support", parent="parent", when="reject")
    taken_by = later.cancel().turn_id
    if taken_by is not None:
        client.cancel("child", turn_id=taken_by)


@pytest.mark.shows("U4", "U8")
def test_the_usage_of_children_is_in_the_report_of_their_parent(service: Service) -> None:
    client = service.client
    for name, parent, label in (("p", None, None), ("c1", "p", None), ("c2", "p", "research")):
        client.create_session(name, parent=parent, usage_source=label)
        ask(service, name, "hello")
    own = {name: client.stores.sessions.usage(SessionId(name))[0].usage for name in ("p", "c1", "c2")}
    rows = {row.source: row.usage for row in client.usage("p")}
    assert rows == {"turn": own["p"], "child": own["c1"], "research": own["c2"]}
    report = client.usage_report("p")
    assert {entry.source: entry.usage for entry in report.children_usage} == {"child": own["c1"], "research": own["c2"]}
    total = sum(own.values(), TokenUsage())
    assert report.usage.total_tokens == total.total_tokens
    assert sum((row.usage for row in client.usage()), TokenUsage()) == total


@pytest.mark.shows("S17")
def test_a_deleted_session_comes_back_only_when_it_is_created(service: Service) -> None:
    client = service.client
    ask(service, "s1", "hello")
    assert client.delete_session("s1")
    for refused in (
        lambda: client.send("s1", "hello", agent="support"),
        lambda: client.reset("s1", agent="support"),
        lambda: client.session("s1"),
    ):
        with pytest.raises(SessionDeleted):
            refused()
    assert client.create_session("s1").turn_index == 1
    ask(service, "s1", "again")
    assert said(service, "s1")[0] == "again"
    assert client.session("s1").turn_index == 2


@pytest.mark.shows("S17", "S18")
@pytest.mark.parametrize("service", ["postgres"], indirect=True)  # SQLite has one writer at a time
def test_input_that_is_being_sent_while_its_session_is_deleted_is_never_answered(service: Service) -> None:
    client, engine = service.client, service.client.stores.database.engine
    client.create_session("s1")
    with engine.begin() as connection:
        late = client.send("s1", "old input", agent="support", connection=connection)
        client.delete_session("s1")
    for ask_for in (late.status, lambda: late.result(timeout=0)):
        with pytest.raises(SessionDeleted):
            ask_for()
    client.create_session("s1")
    ask(service, "s1", "new input")
    assert said(service, "s1")[0] == "new input"
    with pytest.raises(NotFound):
        late.status()


def test_a_session_may_be_renamed(service: Service) -> None:
    service.client.create_session("s1", name="first")
    assert service.client.rename_session("s1", "second").name == "second"
