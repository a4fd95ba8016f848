"""Input of every policy, commands, switches of frames and plugins at once, on workers that die and throw others out.

Each worker has leases of its own, as if Redis kept losing them, and none shows a sign of life: so all of them drive all
sessions, each throws the others out, and nothing but the fence keeps them apart.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks import SwitchFrame, tool
from lash_tasks.domain.codec import canonical
from lash_tasks.domain.hooks import EnqueueMessages, PluginMessage
from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.messages import Message, Role, TextPart
from lash_tasks.domain.queue import BatchState
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.plugins.plugin import Directives, HookContext, Plugin
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest, SendRequest
from lash_tasks.stores.sql import tables
from tests.services import wait_until
from tests.turns.models import Model, call_number, calls
from tests.turns.stage import AGENT, SimulatedDeath, Stage, agent

pytestmark = pytest.mark.timeout(180)

SESSIONS = [SessionId(f"customer-{number}") for number in range(3)]
SENDERS = 3
SENT_BY_EACH = 40
WORKERS = 4
DYING = 0.03
"""How often a worker dies at a point at which it may."""
UNENDED = {BatchState.READY.value, BatchState.CLAIMED.value}


@tool
def move(task: str) -> SwitchFrame:
    """Go on elsewhere."""
    return SwitchFrame(f"task of {task}", initial_messages=["what counts"])


@tool(on_crash="never")
def charge(name: str) -> str:
    """Charge somebody."""
    return "charged"


class Counting(Plugin):
    """Counts the turns of a session in its state, and says each number in the history."""

    id = "counting"

    def before_turn(self, ctx: HookContext) -> Directives:
        ctx.memory = (ctx.memory or 0) + 1
        return EnqueueMessages((PluginMessage(f"number {ctx.memory}", Role.SYSTEM),))


def rule(request: ModelRequest) -> ModelResponse:
    verb, _, name = last_user_text(request).partition(" ")
    if call_number(request) == 1 and verb == "move":
        return calls(("move", canonical({"task": name}).decode()))
    if call_number(request) == 1 and verb == "charge":
        return calls(*[("charge", canonical({"name": f"{name}/{number}"}).decode()) for number in range(2)])
    return RULES["echo"](request)


class Storm:
    """Sends to the stage's sessions and runs them, by many threads."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.over = threading.Event()
        self.calm = threading.Event()
        self.sent: dict[BatchId, tuple[str, str]] = {}

    def send(self, number: int) -> None:
        dice = random.Random(number)
        with self.stage.ingress() as ingress:
            for count in range(SENT_BY_EACH):
                session, text = dice.choice(SESSIONS), f"{dice.choice(('move', 'charge', 'say'))} {number}.{count}"
                when = dice.choice(("queue", "queue", "steer", "interrupt", "merge"))
                values = {"session_id": session, "agent": AGENT, "when": when, "text": text}
                if when == "merge":
                    values["merge_key"] = dice.choice("ab")
                self.sent[ingress.accept(SendRequest.parse(values)).id] = (session, text)
                if dice.random() < 0.1:
                    kind, arguments = dice.choice(
                        (("append_session_nodes", {"nodes": ["n"]}), ("refresh_tool_catalog", {}))
                    )
                    command = {"session_id": session, "kind": kind, "arguments": arguments, "idempotency_key": text}
                    ingress.command(CommandRequest.parse(command))

    def work(self, number: int) -> None:
        dice = random.Random(number)

        def die(point: CrashPoint) -> None:
            if not self.calm.is_set() and dice.random() < DYING:
                raise SimulatedDeath(point)

        while not self.over.is_set():
            with self.stage.worker(die) as parts:
                while not self.over.is_set():
                    parts.running.sessions.run(dice.choice(SESSIONS))

    def rests(self) -> bool:
        waiting = any(row["state"] in UNENDED for row in self.stage.rows(tables.batches))
        return not waiting and all(row["status"] != "running" for row in self.stage.rows(tables.turns))

    def blow(self) -> None:
        with ThreadPoolExecutor(WORKERS + SENDERS) as threads:
            try:
                workers = [threads.submit(self.work, number) for number in range(WORKERS)]
                for sender in [threads.submit(self.send, number) for number in range(SENDERS)]:
                    sender.result(60)
                self.calm.set()
                wait_until(lambda: self.rests() or any(worker.done() for worker in workers), 90, "the sessions to rest")
            finally:
                self.over.set()
            for worker in workers:
                worker.result(30)


def test_each_input_ends_once_and_each_turn_counts_once(stage: Stage) -> None:
    stage.agents, stage.model = [agent(move, charge, plugins=[Counting()])], Model(rule)
    storm = Storm(stage)
    storm.blow()

    said: Counter[tuple[str, str]] = Counter()
    numbers: dict[str, list[int]] = {session: [] for session in SESSIONS}
    with stage.reading() as stores:
        for session in SESSIONS:
            for stored in stores.graph.graph(session).nodes:
                for text in texts(stored.node.message):
                    said[session, text] += 1
                    if text.startswith("number "):
                        numbers[session].append(int(text.removeprefix("number ")))
    states = stage.states()
    assert {states[batch_id] for batch_id in storm.sent} <= {BatchState.CONSUMED, BatchState.DEAD}
    assert {one: said[one] for one in storm.sent.values()} == dict.fromkeys(storm.sent.values(), 1)
    turns = stage.rows(tables.turns)
    for session in SESSIONS:
        assert numbers[session] == list(range(1, len(numbers[session]) + 1)), session
        indexes = sorted(turn["turn_index"] for turn in turns if turn["session_id"] == session)
        assert indexes == list(range(1, len(indexes) + 1)), session
    switches = sum(turn["outcome"] == "agent_frame_switch" for turn in turns)
    assert switches == sum(":agent-frame:" in turn["turn_id"] for turn in turns)


def texts(message: Message | None) -> list[str]:
    return [] if message is None else [part.text for part in message.parts if isinstance(part, TextPart)]
