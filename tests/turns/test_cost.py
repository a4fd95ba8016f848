"""What a turn costs the database, pinned: whoever makes it dearer has to say so here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import event

from lash_tasks import tool
from lash_tasks.runtime.ingress import SendRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.sql.engine import Database
from tests.postgres_protocol import ONE_CONNECTION, protocol_of
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import AGENT, SESSION, Stage, agent

Meter = Callable[[Callable[[], object]], Counter[str]]

POSTGRES_SEND = Counter(round_trips=1, transactions=1, statements=1)
POSTGRES_RUN = Counter(round_trips=1 + 3 + 1, transactions=1 + 3 + 1, statements=7 + 3 + 1)
"""Open, with its BEGIN and COMMIT, three records, commit. No look again: nobody was turned away meanwhile."""
SQLITE_SEND = Counter(statements=2, writes=1)
SQLITE_RUN = Counter(statements=38, writes=1 + 3 + 1)


def postgres_meter(database: Database, directory: Path) -> Meter:
    """Counts in the protocol what was executed, and how often the server said that it is ready for more."""

    def measure(action: Callable[[], object]) -> Counter[str]:
        text = protocol_of(database, action, directory)
        ready = re.findall(r"ReadyForQuery\t (.)", text)  # I: outside of a transaction
        return Counter(round_trips=len(ready), transactions=ready.count("I"), statements=text.count("\tExecute\t"))

    return measure


def sqlite_meter(database: Database) -> Meter:
    """Counts statements and transactions; for each that writes SQLite waits for the disk."""

    def measure(action: Callable[[], object]) -> Counter[str]:
        counted: Counter[str] = Counter()

        def executed(_c: object, _cursor: object, statement: str, *_: object) -> None:
            kind = {"BEGIN IMMEDIATE": "writes", "BEGIN": "reads"}.get(statement, "statements")
            counted[kind] += 1

        event.listen(database.engine, "before_cursor_execute", executed)
        action()
        event.remove(database.engine, "before_cursor_execute", executed)
        return counted

    return measure


def test_a_warm_turn_of_two_model_calls_and_a_tool(stage: Stage, tmp_path: Path) -> None:
    @tool
    def look() -> str:
        """Look."""
        return "seen"

    stage.agents, stage.model = [agent(look)], Model(script({"go": [calls(("look", "")), says("done")]}))
    postgres = stage.settings.dialect == "postgresql"
    if postgres:
        options = {**stage.settings.database_options, **ONE_CONNECTION}
        stage.settings = stage.settings.model_copy(update={"database_options": options})
    request = SendRequest.parse({"session_id": SESSION, "agent": AGENT, "text": "go"})
    with stage.worker() as parts:

        def send() -> None:
            parts.ingress.accept(request)

        def run() -> None:
            assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED

        send()
        run()
        database = parts.stores.database
        measure = postgres_meter(database, tmp_path) if postgres else sqlite_meter(database)
        costs = (measure(send), measure(run))
    assert costs == ((POSTGRES_SEND, POSTGRES_RUN) if postgres else (SQLITE_SEND, SQLITE_RUN))
