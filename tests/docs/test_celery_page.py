"""docs/celery.md explains every setting that we make, every warning of doctor, and every queue and task."""

from __future__ import annotations

import inspect
import re

import pytest
from celery.app.defaults import DEFAULTS

from lash_tasks.beat_schedule import BEAT_SCHEDULE
from lash_tasks.celery import REDIS_TRANSPORT_OPTIONS, create_celery
from lash_tasks.cli import doctor_application
from lash_tasks.queues import ROUTES
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "celery.md").read_text(encoding="utf-8")
OF_THE_APPLICATION = {"broker_url", "beat_schedule", "result_serializer", "task_default_queue", "task_queues"}
"""What is sent where and when, which the page says in words."""


@pytest.mark.parametrize("broker", ["redis://127.0.0.1", "amqp://127.0.0.1"])
def test_every_setting_is_explained(broker: str) -> None:
    settings = create_celery("docs", broker, only_sends=True).conf
    made = {name for name, default in DEFAULTS.items() if settings[name] != default} - OF_THE_APPLICATION
    assert made
    assert [name for name in made if f"`{name}" not in PAGE] == []
    assert {"visibility_timeout", "max_connections", "max_retries"} <= set(REDIS_TRANSPORT_OPTIONS)


def test_every_warning_about_an_app_s_settings_is_named() -> None:
    names = re.findall(r'_unwise\("(\w+)"', inspect.getsource(doctor_application))
    assert names
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_every_queue_and_task_is_named_with_how_often_it_runs() -> None:
    assert [name for pair in ROUTES.items() for name in pair if f"`{name.value}`" not in PAGE] == []
    assert {line.task: line.every_seconds for line in BEAT_SCHEDULE.values()} == {
        "lash.rescue": 1.0,
        "lash.sweep": 1.0,
        "lash.wake_due": 1.0,
        "lash.prune": 3600.0,
    }, "say in docs/celery.md how often they run now"
