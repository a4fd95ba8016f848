"""Between two turns a session rests in SQL: any worker goes on with it, and loads what it shows and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lash_tasks import HookContext, Plugin, SwitchFrame, tool
from lash_tasks.domain.codec import JsonValue, canonical, parse
from lash_tasks.domain.ids import LeaseToken, fence_scope
from lash_tasks.domain.messages import ToolResultPart
from lash_tasks.domain.policies import NOTHING_SAID_OVER, policy_of
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.errors import CommitConflict, ConfigurationError
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.observation.snapshots import SnapshotSources, take_snapshot
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores, open_stores
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.protocols import (
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    TurnCommit,
    TurnStore,
)
from lash_tasks.stores.sql import tables
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, call_number, calls
from tests.turns.stage import SESSION, Stage, agent, emptied


@tool
def look(city: str) -> str:
    """Look at a city."""
    return f"rain in {city}"


@tool
def go_on(task: str) -> SwitchFrame:
    """Go on elsewhere."""
    return SwitchFrame(task, initial_messages=["so far"])


class Counter(Plugin):
    """Remembers how many turns the session had, and what it remembered at the beginning of each."""

    id = "counter"

    def __init__(self) -> None:
        self.found: list[JsonValue] = []

    def before_turn(self, ctx: HookContext) -> None:
        self.found.append(ctx.memory)
        ctx.memory = {"turns": (ctx.memory or {"turns": 0})["turns"] + 1}


def rule(request: ModelRequest) -> ModelResponse:
    """Looks at Oslo, switches frames or echoes, with a usage of its own."""
    if call_number(request) > 1:
        response = RULES["echo"](request)
    else:
        match last_user_text(request):
            case "look":
                response = calls(("look", '{"city": "Oslo"}'))
            case "go":
                response = calls(("go_on", canonical({"task": "book it"}).decode()))
            case _:
                response = RULES["echo"](request)
    return replace(response, usage=TokenUsage(100, 10))


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def stage(settings: Settings, counter: Counter) -> Iterator[Stage]:
    shared, served = open_memory_stores(), agent(look, go_on, plugins=[counter])
    with Stage(settings=emptied(settings), agents=[served], model=Model(rule), shared=shared) as made:
        yield made


class Watched(TurnsBetween):
    """Remembers what each opening has loaded."""

    def __init__(self, turns: TurnStore, loaded: list[OpenedTurn]) -> None:
        super().__init__(turns)
        self._loaded = loaded

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        opened = super().open(request)
        if isinstance(opened, OpenedTurn):
            self._loaded.append(opened)
        return opened


def last_request(stage: Stage) -> ModelRequest:
    assert isinstance(stage.model, Model)
    return stage.model.requests[-1]


def tokens(stage: Stage) -> int:
    with stage.reading() as stores:
        return sum(total.usage.total_tokens for total in stores.sessions.usage(SESSION))


@pytest.mark.shows("C6")
def test_another_worker_goes_on_with_the_same_transcript_usage_and_state(stage: Stage, counter: Counter) -> None:
    for text in ("hello", "look"):
        stage.answer(text)
    known, used = last_request(stage).messages, tokens(stage)
    tools = last_request(stage).tools
    stage.answer("and now?")  # by a worker that has never seen the session

    assert last_request(stage).messages[: len(known)] == known
    assert last_request(stage).tools == tools
    assert [tool.name for tool in tools] == ["look", "go_on"]
    assert any(isinstance(part, ToolResultPart) for message in known for part in message.parts)
    assert (used, tokens(stage)) == (330, 440)
    assert counter.found == [None, {"turns": 1}, {"turns": 2}]
    [head] = stage.rows(tables.sessions)
    assert (head["head_revision"], head["turn_index"]) == (3, 3)


@pytest.mark.shows("C1")
def test_a_session_at_rest_is_shown_as_plain_json_with_its_tools_frames_and_states(stage: Stage) -> None:
    for text in ("look", "go"):
        stage.answer(text)
    policy = policy_of(stage.agents[0].snapshot(), NOTHING_SAID_OVER).as_json()
    with stage.reading() as stores:
        sources = SnapshotSources(stores.sessions, stores.frames, stores.graph)
        data = take_snapshot(sources, SESSION, policy).as_json()

    assert parse(canonical(data)) == data
    assert data["policy"]["tools"] == ["look", "go_on"]
    assert [frame["status"] for frame in data["agent_frames"]] == ["superseded", "active"]
    assert [(state["name"], state["generation"]) for state in data["states"]] == [("plugin:counter", 3)]
    assert len(data["session_graph"]["nodes"]) == len(stage.rows(tables.nodes))


@pytest.mark.shows("F3")
def test_what_plugins_remember_goes_along_into_another_frame(stage: Stage, counter: Counter) -> None:
    for text in ("hello", "go", "and now?"):
        stage.answer(text)

    assert counter.found == [None, {"turns": 1}, {"turns": 2}, {"turns": 3}]
    [state] = stage.rows(tables.states)
    assert state["name"] == "plugin:counter"


@pytest.mark.shows("C6")
def test_a_commit_that_fails_names_the_session_and_leaves_its_lease_free(stage: Stage) -> None:
    class Refusing(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            return CommitRefused.CONFLICT

    stage.send("hello")
    with pytest.raises(CommitConflict) as refused:
        stage.run(wrap=lambda stores: replace(stores, turns=Refusing(stores.turns)))

    assert SESSION in str(refused.value)
    assert stage.shared is not None
    scope, token = fence_scope(SESSION), LeaseToken("next")
    assert stage.shared.leases.acquire(scope, token, 1000)
    stage.shared.leases.release(scope, token)
    stage.run_all()
    assert stage.last().text == "You said: hello"


@pytest.mark.shows("C5")
def test_a_worker_loads_what_the_session_shows_and_the_rest_stays_on_disk(stage: Stage) -> None:
    for text in ("hello", "go"):
        stage.answer(text)
    loaded: list[OpenedTurn] = []

    def watched(stores: Stores) -> Stores:
        return replace(stores, turns=Watched(stores.turns, loaded))

    stage.send("one")
    stage.send("two")
    with stage.worker(wrap=watched) as parts:
        while parts.running.sessions.run(SESSION) is not RunVerdict.NOTHING:
            pass

    cold, warm = loaded
    [frame] = {row["frame_id"] for row in stage.rows(tables.nodes)} - {None}
    assert {stored.node.frame_id for stored in cold.history} == {frame}
    assert len(cold.history) == 3  # the seed, the task and its answer
    assert (warm.whole, warm.history) == (False, ())
    left = [row for row in stage.rows(tables.nodes) if row["frame_id"] is None]
    assert len(left) == 5  # hello, its answer, go, the call, its result


@pytest.mark.shows("C5")
def test_there_is_no_worker_without_a_store() -> None:
    with pytest.raises(ConfigurationError, match="Set LASH_DATABASE_URL"):
        open_stores(Settings())
