"""What a Lash brings into somebody else's Celery app, and that it brings nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import celery
import pytest
from celery import signals
from kombu import Exchange, Queue

from lash_tasks import Agent, Lash, Settings
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import ConfigurationError
from lash_tasks.queues import NO_NAMESPACE, Names
from tests.services import wait_until

SETTINGS = Settings(database_url="postgresql://nowhere/lash", redis_url="redis://nowhere/0")
OURS = {*NO_NAMESPACE.worker_queues, "lash.process.default"}
SUPPORT = Agent("support", "scripted:echo")

APART: dict[str, Any] = {
    "broker_url": "memory://",
    "task_serializer": "pickle",
    "result_serializer": "pickle",
    "accept_content": ["pickle", "json"],
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure_or_timeout": False,
    "task_ignore_result": False,
    "task_track_started": True,
    "task_store_errors_even_if_ignored": True,
    "task_default_queue": "x",
    "task_default_exchange": "topics",
    "task_default_exchange_type": "topic",
    "task_default_routing_key": "x.default",
    "task_default_priority": 7,
    "task_default_rate_limit": "1/h",
    "task_time_limit": 30,
    "task_soft_time_limit": 20,
    "task_queue_max_priority": 10,
    "task_create_missing_queues": False,
    "task_queues": [Queue("x"), Queue("y", Exchange("y"), routing_key="y")],
    "task_routes": {"*": {"queue": "x", "exchange": "topics", "routing_key": "x.all", "priority": 9}},
    "task_annotations": {"*": {"acks_late": True, "rate_limit": "1/h"}},
    "result_backend": "cache+memory://",
    "beat_schedule": {"theirs": {"task": "their.task", "schedule": 10.0}},
    "worker_prefetch_multiplier": 4,
    "broker_transport_options": {"visibility_timeout": 60},
}
"""Settings of an app that differs from us wherever it can."""


@pytest.fixture
def apps() -> Iterator[list[celery.Celery]]:
    made: list[celery.Celery] = []
    yield made
    for app in made:
        app.close()


def an_app(apps: list[celery.Celery], **settings: Any) -> celery.Celery:
    app = celery.Celery("theirs", set_as_current=False)
    app.conf.update(settings)
    apps.append(app)
    return app


def theirs() -> None:
    """A task of their own."""


def join(app: celery.Celery, **options: Any) -> Lash:
    """A Lash in `app`, as far as the start of a worker or of beat takes it."""
    lash = Lash([SUPPORT], celery=app, settings=SETTINGS, **options)
    app.loader.import_default_modules()
    return lash


def settings_of(app: celery.Celery) -> dict[str, Any]:
    return copy.deepcopy(dict(app.conf.table(with_defaults=True, censored=False)))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("settings", [{}, APART], ids=["defaults", "apart"])
def test_no_setting_changes_but_the_beat_schedule(apps: list[celery.Celery], settings: dict[str, Any]) -> None:
    """Compared with a twin without a Lash, because Celery itself completes the queues that it is given."""
    app, twin = (an_app(apps, **copy.deepcopy(settings)) for _ in range(2))
    given = app.conf.beat_schedule
    join(app)
    twin.loader.import_default_modules()
    assert set(app.amqp.queues) >= OURS
    assert not OURS & set(twin.amqp.queues)

    after, untouched = settings_of(app), settings_of(twin)
    added = {name: after["beat_schedule"].pop(name) for name in set(after["beat_schedule"]) - set(given)}
    assert set(added) == {"lash-rescue", "lash-sweep", "lash-wake-due", "lash-prune"}
    assert after == untouched
    assert "lash-sweep" not in given, "the dictionary that the app was given may be one of many apps"


def test_constructing_reads_no_setting_and_imports_nothing() -> None:
    class Unready:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was read")

    app = celery.Celery("theirs", set_as_current=False, config_source=Unready())
    lash = Lash(["no.such.module:agent"], celery=app)

    assert lash.celery is app
    assert not app.configured
    app.close()


def test_the_tasks_of_other_apps_in_the_process_stay_as_they_are(apps: list[celery.Celery]) -> None:
    other, app = an_app(apps), an_app(apps)
    join(app)
    other.finalize()

    assert "lash.run_session" in app.tasks
    assert "lash.run_session" not in other.tasks


# ---------------------------------------------------------------- tasks


def test_our_tasks_have_options_of_their_own(apps: list[celery.Celery]) -> None:
    app = an_app(apps, **copy.deepcopy(APART))

    app.task(name="theirs")(theirs)
    join(app)
    app.finalize()
    doorbell, ingress = app.tasks["lash.run_session"], app.tasks["lash.send"]

    assert (doorbell.acks_late, doorbell.ignore_result, doorbell.serializer) == (False, True, "json")
    assert (ingress.acks_late, ingress.ignore_result, ingress.serializer) == (True, False, "json")
    for task in (doorbell, ingress):
        assert (task.rate_limit, task.track_started) == (0, False)
        assert (task.acks_on_failure, task.store_errors_even_if_ignored) == (True, False)
        assert min(task.time_limit, task.soft_time_limit) > 10**8
    own = app.tasks["theirs"]
    assert (own.acks_late, own.serializer, own.rate_limit, own.time_limit) == (True, "pickle", "1/h", 30)


def published(app: celery.Celery, publish: Any) -> Mapping[str, Any]:
    """What a message looks like at the moment it leaves."""
    seen: list[Mapping[str, Any]] = []

    def look(**message: Any) -> None:
        seen.append(message)

    signals.before_task_publish.connect(look, weak=False)
    try:
        publish()
        wait_until(lambda: seen, 5, "a message to be published")
    finally:
        signals.before_task_publish.disconnect(look)
    return seen[0]


def a_router(name: str, *_: object, **__: object) -> dict[str, str]:
    assert not name.startswith("lash."), "their function is not asked about our tasks"
    return {"queue": "x"}


@pytest.mark.parametrize("routes", [APART["task_routes"], a_router], ids=["wildcard", "function"])
def test_a_doorbell_goes_to_its_queue_past_every_route(apps: list[celery.Celery], routes: Any) -> None:
    app = an_app(apps, **{**copy.deepcopy(APART), "task_routes": routes})
    join(app)
    doorbell = CeleryDoorbell(app, SystemClock())
    message = published(app, lambda: doorbell.ring_session(SessionId("s")))

    assert (message["exchange"], message["routing_key"]) == ("", "lash.turns")
    assert message["properties"]["priority"] == 0
    (queue,) = message["declare"]
    assert (queue.exchange.name, queue.routing_key, queue.queue_arguments) == ("lash.turns", "lash.turns", None)


def test_beat_sends_straight_to_our_queue_too(apps: list[celery.Celery]) -> None:
    app = an_app(apps, **copy.deepcopy(APART))
    join(app)
    entry = app.conf.beat_schedule["lash-sweep"]
    message = published(app, lambda: app.tasks[entry["task"]].apply_async(**entry["options"]))

    assert (message["exchange"], message["routing_key"]) == ("", "lash.maintenance")
    assert (message["properties"]["priority"], message["headers"]["ignore_result"]) == (0, True)


def test_a_beat_entry_that_the_app_has_stays(apps: list[celery.Celery]) -> None:
    own = {"task": "lash.sweep", "schedule": 30.0}
    app = an_app(apps, beat_schedule={"lash-sweep": own})
    join(app)

    assert app.conf.beat_schedule["lash-sweep"] == own
    assert "lash-rescue" in app.conf.beat_schedule


# ---------------------------------------------------------------- queues


def consumed(app: celery.Celery, include: str | None = None, exclude: str | None = None) -> set[str]:
    """What a worker with these `-Q` and `-X` serves, in Celery's own words."""
    worker = SimpleNamespace(app=app, hostname="here")
    celery.worker.WorkController.setup_queues(worker, include, exclude)
    return set(app.amqp.queues.consume_from)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [({}, {"celery"}), ({"task_default_queue": "x"}, {"x"}), (APART, {"x", "y"})],
    ids=["no list", "a default of its own", "a list"],
)
def test_without_q_a_worker_serves_their_queues_and_all_of_ours(
    apps: list[celery.Celery], settings: dict[str, Any], theirs: set[str]
) -> None:
    app = an_app(apps, **copy.deepcopy(settings))
    join(app)

    assert consumed(app) == theirs | OURS
    assert all(app.amqp.queues[name].queue_arguments is None for name in OURS), "as every other client declares them"


@pytest.mark.parametrize("settings", [{}, APART], ids=["defaults", "a list, and no missing queues"])
def test_with_q_a_worker_serves_exactly_those(apps: list[celery.Celery], settings: dict[str, Any]) -> None:
    app = an_app(apps, **copy.deepcopy(settings))
    join(app)
    default = app.conf.task_default_queue

    assert consumed(app, f"{default},lash.turns") == {default, "lash.turns"}
    assert app.amqp.queues["lash.turns"].exchange.name == "lash.turns"


def test_without_one_of_ours(apps: list[celery.Celery]) -> None:
    app = an_app(apps)
    join(app)

    assert consumed(app, exclude="lash.maintenance") == {"celery"} | OURS - {"lash.maintenance"}


def test_a_table_of_queues_that_was_made_before(apps: list[celery.Celery]) -> None:
    app = an_app(apps)
    app.amqp.queues  # noqa: B018
    join(app)

    assert consumed(app) == {"celery"} | OURS


def test_a_lash_that_is_made_while_celery_imports_its_modules(apps: list[celery.Celery]) -> None:
    """As in a `tasks` module: the signal that it otherwise waits for is over by then."""
    app = an_app(apps)
    app.loader.init_worker()
    Lash([SUPPORT], celery=app, settings=SETTINGS)

    assert consumed(app) == {"celery"} | OURS
    assert "lash.run_session" in app.tasks


def test_in_a_namespace(apps: list[celery.Celery]) -> None:
    app = an_app(apps)
    Lash([SUPPORT], celery=app, settings=SETTINGS.model_copy(update={"namespace": "eu"}))
    app.loader.import_default_modules()

    assert consumed(app) == {"celery", *Names("eu").worker_queues, "lash.eu.process.default"}
    assert "lash.eu.run_session" in app.tasks
    assert "lash-eu-sweep" in app.conf.beat_schedule


# ---------------------------------------------------------------- refusals


def test_one_app_has_one_lash(apps: list[celery.Celery]) -> None:
    app = an_app(apps)
    join(app)

    with pytest.raises(ConfigurationError, match="'theirs' has a Lash; give all agents to one"):
        Lash([SUPPORT], celery=app)


def test_embedded_has_no_celery(apps: list[celery.Celery]) -> None:
    with pytest.raises(ConfigurationError, match="embedded=True runs without Celery"):
        Lash([SUPPORT], celery=an_app(apps), embedded=True)


def test_what_is_no_app() -> None:
    with pytest.raises(ConfigurationError, match=r"celery= must be your celery\.Celery, not 'redis://here'"):
        Lash([SUPPORT], celery="redis://here")
