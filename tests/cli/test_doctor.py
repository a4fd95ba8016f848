"""`lash-tasks doctor` on healthy and on sick systems: every trouble is found, and comes with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from lash_tasks.domain.ids import WorkerId
from lash_tasks.queues import NO_NAMESPACE
from lash_tasks.stores.protocols import WorkerRecord
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from tests.cli.calling import Printed, call
from tests.cli.conftest import Command
from tests.cli.test_sending import serve
from tests.embedded.application import application
from tests.scene import SUPPORT, Scene

NOWHERE = "redis://127.0.0.1:1/0"
Findings = dict[str, dict[str, Any]]


def findings(printed: Printed) -> Findings:
    """By check; the exit code agrees with them."""
    report = printed.document
    found = {one["check"]: one for one in report["findings"]}
    failed = [one for one in found.values() if one["health"] == "failed"]
    assert report["ok"] == (not failed)
    assert printed.exit_code == (1 if failed else 0)
    assert all(one["advice"] for one in found.values() if one["health"] != "ok")
    return found


def health(found: Findings) -> dict[str, str]:
    return {check: one["health"] for check, one in found.items()}


class Installation:
    """Postgres and Redis with workers that do no more than say that they live."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self.variables = {"LASH_DATABASE_URL": postgres_url, "LASH_REDIS_URL": redis_url}
        self._database = Database.open(postgres_url)
        SqlFleet(self._database).register_agents([SUPPORT])
        self._workers = 0

    def worker(self, queues: Sequence[str]) -> None:
        self._workers += 1
        record = WorkerRecord(
            worker=WorkerId(f"w{self._workers}"),
            host="here",
            pid=os.getpid(),
            queues=tuple(queues),
            version="0",
            started_at_ms=0,
            seen_at_ms=0,
            live=True,
        )
        SqlFleet(self._database).beat(record, {})

    def doctor(self, **variables: str) -> Findings:
        return findings(call("doctor", "--json", **{**self.variables, **variables}))

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def installation(migrated_postgres_url: str, redis_url: str) -> Iterator[Installation]:
    installation = Installation(migrated_postgres_url, redis_url)
    yield installation
    installation.close()


# ---------------------------------------------------------------- embedded


def test_a_running_stack_is_well(tmp_path: Path, lash_tasks: Command) -> None:
    with application(tmp_path):
        found = findings(lash_tasks("doctor", "--json"))

    assert health(found) == dict.fromkeys(
        ("database", "schema", "clocks", "workers", "waiting work", "held turns"), "ok"
    )
    assert "agents: worker" in found["workers"]["message"]


def test_a_stack_that_does_not_run_is_told_how_to_start(scene: Scene, lash_tasks: Command) -> None:
    found = findings(lash_tasks("doctor", "--json"))

    assert found["workers"]["health"] == "failed"
    assert "lash-tasks -A <module> up" in found["workers"]["advice"]


def test_a_database_that_is_not_there_is_found_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "misspelt" / "lash.db"
    found = findings(call("doctor", "--json", LASH_DATABASE_URL=f"sqlite:///{path}"))

    assert health(found) == {"database": "failed"}
    assert found["database"]["message"] == f"there is none at {path}"
    assert found["database"]["advice"] == "start lash-tasks up, or mend LASH_DATABASE_URL"
    assert not path.parent.exists()


def test_a_schema_that_is_behind_is_to_be_upgraded_first(tmp_path: Path, lash_tasks: Command) -> None:
    (tmp_path / "lash.db").touch()
    found = findings(lash_tasks("doctor", "--json"))

    assert health(found) == {"database": "ok", "schema": "failed", "clocks": "ok"}
    assert found["schema"]["advice"] == "run: lash-tasks db upgrade"
    assert "lash-tasks" not in found["schema"]["message"]


def test_a_file_that_cannot_be_opened_is_found(tmp_path: Path) -> None:
    found = findings(call("doctor", "--json", LASH_DATABASE_URL=f"sqlite:///{tmp_path}"))
    assert health(found) == {"database": "failed"}
    assert "check LASH_DATABASE_URL" in found["database"]["advice"]


def test_a_file_that_is_no_database_is_found(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database " * 100)
    found = findings(call("doctor", "--json", LASH_DATABASE_URL=f"sqlite:///{tmp_path / 'text.db'}"))
    assert health(found) == {"settings": "failed"}
    assert found["settings"]["message"].startswith("LASH_DATABASE_URL")


def test_a_setting_that_nothing_starts_with_is_found() -> None:
    found = findings(call("doctor", "--json", LASH_DATABASE_URL="postgresql://user:sesame@host:port/lash"))
    assert health(found) == {"settings": "failed"}
    assert "LASH_DATABASE_URL is no URL" in found["settings"]["message"]


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("tests.embedded.no_such_module", "failed", "there is no module 'tests.embedded.no_such_module' here"),
        ("examples.support", "ok", "agents: support"),
    ],
)
def test_an_application_is_looked_at_on_sqlite_too(
    scene: Scene, lash_tasks: Command, name: str, state: str, message: str
) -> None:
    found = findings(lash_tasks("-A", name, "doctor", "--json"))

    assert found["application"]["health"] == state
    assert message in found["application"]["message"]
    assert not [check for check in found if check.startswith("celery")]


def test_for_a_person_the_advice_stands_below_the_trouble(scene: Scene, lash_tasks: Command) -> None:
    lines = [line.split() for line in lash_tasks("doctor").stdout.splitlines()]

    trouble = next(number for number, line in enumerate(lines) if line[0] == "failed")
    assert lines[trouble][1] == "workers"
    assert lines[trouble + 1][:3] == ["→", "start", "one:"]


# ---------------------------------------------------------------- Postgres and Redis


def test_an_installation_whose_every_queue_is_served_is_well(installation: Installation) -> None:
    installation.worker([queue for queue in NO_NAMESPACE.worker_queues if queue != "lash.maintenance"])
    installation.worker(["lash.maintenance"])
    found = installation.doctor()

    checks = ("database", "schema", "clocks", "redis", "broker", "workers", "queues", "waiting work", "held turns")
    assert health(found) == dict.fromkeys(checks, "ok")
    assert "2 live" in found["workers"]["message"]


def test_a_queue_nobody_serves_is_named_with_the_option_that_serves_it(installation: Installation) -> None:
    installation.worker(["lash.turns", "lash.ingress"])
    queues = installation.doctor()["queues"]

    assert queues["health"] == "failed"
    assert queues["message"] == "nobody serves lash.checkpoints, lash.maintenance"
    assert queues["advice"] == "add them to a worker: -Q lash.checkpoints,lash.maintenance"


def test_no_worker_at_all(installation: Installation) -> None:
    found = installation.doctor()

    assert found["workers"]["health"] == "failed"
    assert found["workers"]["advice"] == "start one: celery -A <module> worker -P threads"


SICK: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"LASH_REDIS_URL": ""}, {"redis": "LASH_REDIS_URL is not set", "broker": "no broker is configured"}),
    ({"LASH_REDIS_URL": NOWHERE}, {"redis": "LASH_REDIS_URL", "broker": "LASH_BROKER_URL"}),
    ({"LASH_BROKER_URL": NOWHERE}, {"broker": "LASH_BROKER_URL"}),
    ({"LASH_BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}, {"broker": "LASH_BROKER_URL"}),
    (
        {"LASH_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/lash", "LASH_REDIS_URL": NOWHERE},
        {"database": "LASH_DATABASE_URL", "redis": "LASH_REDIS_URL", "broker": "LASH_BROKER_URL"},
    ),
]


@pytest.mark.parametrize(("variables", "troubles"), SICK, ids=[",".join(troubles) for _, troubles in SICK])
def test_every_server_that_is_down_is_found_in_one_go(
    installation: Installation, variables: dict[str, str], troubles: dict[str, str]
) -> None:
    installation.worker(NO_NAMESPACE.worker_queues)
    found = installation.doctor(**variables)

    assert {check for check, state in health(found).items() if state == "failed"} == set(troubles)
    for check, words in troubles.items():
        assert words in found[check]["message"] + found[check]["advice"]


# ---------------------------------------------------------------- work that waits

Waits = Callable[[Scene], object]


def waits_long(scene: Scene) -> None:
    scene.send()
    with scene.database.transaction() as connection:
        connection.execute(text("UPDATE lash_batches SET available_at_ms = available_at_ms - 45000"))


def waits_for_code(scene: Scene) -> None:
    scene.send()
    with scene.database.transaction() as connection:
        connection.execute(text("UPDATE lash_batches SET agent = 'sales'"))


def waits_long_for_a_busy_worker(scene: Scene) -> None:
    waits_long(scene)
    serve(scene, SUPPORT)


def is_left_by_a_dead_worker(scene: Scene) -> None:
    scene.send()
    scene.start()
    scene.send()


@pytest.mark.parametrize(
    ("arrange", "state", "message", "advice"),
    [
        (Scene.send, "ok", "1 input in the queue", ""),
        (waits_long, "warning", "the oldest for 4", "start a worker"),
        (waits_long_for_a_busy_worker, "warning", "the oldest for 4", "more workers"),
        (is_left_by_a_dead_worker, "warning", "1 unfinished turn whose worker is gone; 1 input in", "start a worker"),
        (waits_for_code, "warning", "held: nobody serves sales", "deploy these agents"),
    ],
)
def test_waiting_work(scene: Scene, lash_tasks: Command, arrange: Waits, state: str, message: str, advice: str) -> None:
    arrange(scene)
    waiting = findings(lash_tasks("doctor", "--json"))["waiting work"]

    assert waiting["health"] == state
    assert message in waiting["message"]
    assert advice in waiting["advice"]
