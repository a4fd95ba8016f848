"""What an application in a namespace calls its queues, tasks and periodic messages."""

from __future__ import annotations

import pytest

from lash_tasks import Agent, Lash
from lash_tasks.errors import ConfigurationError
from lash_tasks.queues import NO_NAMESPACE, Names, Queue, Task
from lash_tasks.settings import Settings


def test_without_a_namespace_the_names_are_the_documented_ones() -> None:
    assert NO_NAMESPACE.worker_queues == ("lash.ingress", "lash.turns", "lash.checkpoints", "lash.maintenance")
    assert NO_NAMESPACE.task(Task.SEND) == "lash.send"
    assert NO_NAMESPACE.process_queue("reports") == "lash.process.reports"


def test_a_namespace_stands_behind_the_first_dot() -> None:
    names = Names("x")
    assert names.queue(Queue.TURNS) == "lash.x.turns"
    assert names.queue_of(Task.RUN_SESSION) == "lash.x.turns"
    assert names.task(Task.RUN_SESSION) == "lash.x.run_session"
    assert names.process_queue("reports") == "lash.x.process.reports"


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_an_application_in_a_namespace_declares_names_of_its_own_only() -> None:
    settings = Settings(database_url="postgresql://db/app", redis_url="redis://cache", namespace="x")
    app = Lash([Agent(name="support", model="scripted:x")], settings=settings).celery
    app.loader.import_default_modules()

    assert {name for name in app.tasks if name.startswith("lash")} == {Names("x").task(task) for task in Task}
    assert {queue for queue in app.amqp.queues if queue.startswith("lash")} == {
        *Names("x").worker_queues,
        "lash.x.process.default",
    }
    for entry, line in app.conf.beat_schedule.items():
        assert entry.startswith("lash-x-")
        assert line["task"] in app.tasks
        assert line["options"]["queue"] in app.amqp.queues


@pytest.mark.parametrize("namespace", ["a.b", "a:b", "a b", "é", "a" * 41, "process"])
def test_a_namespace_that_would_mix_with_other_names_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LASH_NAMESPACE: must "):
        Settings.from_environment({"LASH_NAMESPACE": namespace})
