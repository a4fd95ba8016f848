"""`lash-tasks doctor` named an application: what is unwise in its Celery settings, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lash_tasks.stores.sql import schema
from tests.cli.calling import ROOT, run

APPLICATION = """
from celery import Celery
from lash_tasks import Agent, Lash
app = Celery("shop", broker={broker!r})
app.conf.update({settings!r})
lash = Lash([Agent("support", "scripted:echo")], celery=app)
print("an application may print")
"""
WISE = {
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_send_task_events": True,
    "broker_transport_options": {"max_connections": 100, "unacked_restore_throttle": 1},
}


class Shop:
    def __init__(self, directory: Path, postgres_url: str, redis_url: str) -> None:
        self.directory = directory
        self.redis_url = redis_url
        self.variables = {"LASH_DATABASE_URL": postgres_url, "LASH_REDIS_URL": redis_url}
        schema.upgrade(postgres_url)

    def doctor(self, settings: dict[str, Any], *, broker: str | None = None, name: str = "shop") -> dict[str, Any]:
        """The findings about the application, by check."""
        lines = APPLICATION.format(broker=broker or self.redis_url, settings=settings)
        (self.directory / "shop.py").write_text(lines, encoding="utf-8")
        printed = run("-A", name, "doctor", "--json", cwd=self.directory, **self.variables)
        findings = {one["check"]: one for one in printed.document["findings"]}
        return {check: one for check, one in findings.items() if check.startswith(("celery", "application"))}


@pytest.fixture
def shop(tmp_path: Path, postgres_url: str, redis_url: str) -> Shop:
    return Shop(tmp_path, postgres_url, redis_url)


def test_an_app_with_celerys_defaults_is_told_of_each_unwise_one(shop: Shop) -> None:
    found = shop.doctor({"task_acks_late": True, "broker_transport_options": {"global_keyprefix": "shop"}})

    assert found.pop("application")["message"] == "agents: support"
    assert set(found) == {
        "celery: worker_prefetch_multiplier",
        "celery: worker_disable_prefetch",
        "celery: broker_transport_options",
        "celery: unacked_restore_throttle",
        "celery: task_acks_late",
        "celery: global_keyprefix",
        "celery: worker_send_task_events",
    }
    assert {one["health"] for one in found.values()} == {"warning"}
    assert all(one["advice"] for one in found.values())


def test_an_app_with_wise_settings_is_well(shop: Shop) -> None:
    found = shop.doctor(WISE)

    assert {check: one["health"] for check, one in found.items()} == {"application": "ok", "celery": "ok"}


def test_another_broker_than_that_of_other_services_is_named(shop: Shop) -> None:
    found = shop.doctor(WISE, broker="amqp://guest:secret@rabbit.internal//")["celery: broker"]

    assert found["health"] == "warning"
    assert "rabbit.internal" in found["message"]
    assert "secret" not in found["message"]
    assert found["advice"] == "set LASH_BROKER_URL to the app's broker"


def test_an_app_on_rabbitmq_is_told_of_what_garbles_its_connections(shop: Shop) -> None:
    broker, setting = "amqp://guest:guest@127.0.0.1:1//", "worker_enable_prefetch_count_reduction"

    assert shop.doctor(WISE, broker=broker)[f"celery: {setting}"]["advice"] == "set it to False"
    assert f"celery: {setting}" not in shop.doctor({**WISE, setting: False}, broker=broker)


def test_what_keeps_workers_from_starting_is_a_failure(shop: Shop) -> None:
    found = shop.doctor({**WISE, "task_always_eager": True})["celery"]

    assert found["health"] == "failed"
    assert "task_always_eager" in found["message"]


def test_an_application_that_cannot_be_imported_is_a_finding_beside_the_others(shop: Shop) -> None:
    found = shop.doctor(WISE, name="shop:nothing")

    assert found["application"]["health"] == "failed"
    assert "no attribute 'nothing'" in found["application"]["message"]


def test_a_package_is_searched_where_celery_searches_it(shop: Shop) -> None:
    """`-A bookshop` means `bookshop.celery`, whose agents are import strings."""
    variables = {**shop.variables, "BOOKSHOP_BROKER_URL": shop.redis_url}
    printed = run("-A", "bookshop", "doctor", "--json", cwd=ROOT / "examples" / "existing_app", **variables)

    assert {"check": "application", "health": "ok", "message": "agents: clerk", "advice": ""} in printed.document[
        "findings"
    ]
