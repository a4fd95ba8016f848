"""`lash-tasks up`: one process that answers, in both wirings, until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import rich

from tests.cli.calling import run
from tests.cli.running import SHOP, running
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)

STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
QUESTION = 'Where is it? call lookup_order {"order_id": "12"}'
ANSWER = 'lookup_order returned: {"order_id":"12","state":"shipped"}'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the application `shop` in it."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def distributed(postgres_url: str, redis_url: str) -> dict[str, str]:
    return {"LASH_DATABASE_URL": postgres_url, "LASH_REDIS_URL": redis_url}


def ask(variables: Mapping[str, str], session: str = "customer-7") -> str:
    """Send from another process; the answer."""
    printed = run("send", session, QUESTION, "--wait", "--timeout", "30", "--json", cwd=None, **variables)
    assert printed.exit_code == 0, printed
    assert "Traceback" not in printed.stderr
    return str(printed.document["assistant_output"]["safe_text"])


@STOPS
def test_the_embedded_stack_answers_other_processes_and_stops_when_told(shop: Path, number: signal.Signals) -> None:
    variables = {"LASH_DATABASE_URL": f"sqlite:///{shop / 'shop.db'}"}
    for attempt in range(2):  # the second start shows that the first has let go of the file
        with running("-A", "shop", "up", directory=shop, **variables) as up:
            assert up.next_line() == {"up": True, "wiring": "embedded", "agents": ["support"]}
            assert ask(variables, f"customer-{attempt}") == ANSWER
            assert up.stop(number) == 0
            assert up.rest() == [], "what the application prints is no JSON of ours"
            assert "a line that the tool prints" in up.errors()
            assert "worker stopped" in up.errors()
            assert "Traceback" not in up.errors()


def test_without_a_database_url_it_is_the_embedded_stack_of_the_directory(shop: Path) -> None:
    with running("up", directory=shop, LASH_APP="shop:lash") as up:
        assert up.next_line()["wiring"] == "embedded"
        assert (shop / ".lash" / "lash.db").exists()
        assert up.stop(signal.SIGTERM) == 0


def test_a_second_embedded_stack_is_refused_and_told_who_has_the_file(shop: Path) -> None:
    with running("-A", "shop", "up", directory=shop) as up:
        up.next_line()
        second = run("-A", "shop", "up", "--json", cwd=shop)
        assert second.error["code"] == "configuration"
        assert f"is in use by process {up.pid}; stop it" in second.error["message"]


def test_a_turn_that_runs_when_it_is_told_to_stop_is_finished_first(shop: Path) -> None:
    variables = {"LASH_DATABASE_URL": f"sqlite:///{shop / 'shop.db'}"}
    with running("-A", "shop", "up", directory=shop, **variables) as up:
        up.next_line()
        run("send", "s", "say it [slow 1]", cwd=shop, **variables)
        wait_until(lambda: "turn started" in up.errors(), 20, "the turn to start")
        assert up.stop(signal.SIGTERM) == 0
        assert "turn committed" in up.errors()


@STOPS
def test_the_celery_worker_answers_and_ticks_until_it_is_told_to_stop(
    shop: Path, distributed: dict[str, str], number: signal.Signals
) -> None:
    with running("-A", "shop", "up", "--concurrency", "2", directory=shop, **distributed) as up:
        assert up.next_line() == {"up": True, "wiring": "celery", "agents": ["support"]}
        wait_until(lambda: " ready." in up.errors(), 30, "the worker to be ready")
        assert ask(distributed) == ANSWER
        # Without the broker a client cannot ring: only the ticker's sweep finds what it stores.
        assert ask({**distributed, "LASH_BROKER_URL": "redis://127.0.0.1:1/0"}) == ANSWER
        assert run("doctor", "--json", cwd=shop, **distributed).document["ok"]
        assert up.stop(number) == 0
        assert up.rest() == []
        assert "worker stopped" in up.errors()
        assert "Traceback" not in up.errors()


def test_events_are_followed_as_they_happen_and_again_from_a_cursor(shop: Path, distributed: dict[str, str]) -> None:
    with running("-A", "shop", "up", directory=shop, **distributed) as up:
        up.next_line()
        with running("follow", "customer-7", directory=shop, **distributed) as follow:
            snapshot = follow.next_line()
            assert (snapshot["type"], snapshot["data"]["turn_index"]) == ("snapshot", 0)
            assert ask(distributed) == ANSWER
            seen = [follow.next_line()]
            while seen[-1]["type"] != "committed":
                seen.append(follow.next_line())
            assert follow.stop(signal.SIGINT) == 0

        types = [event["type"] for event in seen]
        assert types[:2] == ["queue_changed", "turn_started"]
        assert types.index("tool_call_started") < types.index("tool_call_completed") < types.index("committed")
        streamed = [event["data"]["text"] for event in seen if event["type"] == "assistant_prose_delta"]
        assert "".join(streamed) == ANSWER
        assert seen[-1]["data"]["assistant_output"]["safe_text"] == ANSWER

        called = types.index("tool_call_started")
        with running(
            "follow", "--cursor", seen[called]["cursor"], "customer-7", directory=shop, **distributed
        ) as again:
            assert again.next_line()["type"] == "snapshot"
            # What streamed meanwhile may come again; the turn it became comes once, whole.
            rest = [again.next_line()]
            while rest[-1]["type"] != "committed":
                rest.append(again.next_line())
            assert rest[-1]["data"] == seen[-1]["data"]
            assert again.stop(signal.SIGINT) == 0
            assert not [line for line in again.rest() if "committed" in line]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("application", "sentence"),
    [
        (None, "name your application: lash-tasks -A module[:attribute] …, or set LASH_APP"),
        ("nowhere", "there is no module 'nowhere' here; check -A or LASH_APP"),
        ("shop:nothing", "module 'shop' (shop.py) has no attribute 'nothing'; check -A or LASH_APP"),
        ("shop:no_lash", "'shop:no_lash' (shop.py) holds no Lash; point -A at the module or attribute that does"),
    ],
)
def test_an_application_that_is_not_there_is_refused(shop: Path, application: str | None, sentence: str) -> None:
    named = ["-A", application] if application else []

    error = run(*named, "up", "--json", cwd=shop).error
    assert (error["code"], error["message"].replace(f"{shop}/", "")) == ("configuration", sentence)


def test_a_file_of_a_name_that_another_module_has_already_is_told_which_one_that_is(shop: Path) -> None:
    (shop / "rich.py").write_text(SHOP)
    error = run("-A", "rich", "up", "--json", cwd=shop).error

    assert error["code"] == "configuration"
    assert f"'rich' ({rich.__file__}) holds no Lash" in error["message"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("lash = Lash(", "SyntaxError: '(' was never closed (broken.py, line 1)"),
        ("\nimport no_such_library", "ModuleNotFoundError: No module named 'no_such_library' (broken.py, line 2)"),
        ("import json\njson.loads('no\\njson')", "Expecting value: line 1 column 1 (char 0) (broken.py, line 2)"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (broken.py, line 1)"),
    ],
)
def test_an_application_that_cannot_be_imported_says_why_and_where(shop: Path, code: str, problem: str) -> None:
    (shop / "broken.py").write_text(code)
    printed = run("-A", "broken", "up", "--json", cwd=shop)

    assert printed.error["code"] == "configuration"
    assert printed.error["message"].startswith("module 'broken' cannot be imported: ")
    assert printed.error["message"].endswith(problem)
    assert "Traceback" not in printed.stderr


def test_postgres_without_redis_is_refused_before_anything_is_migrated(shop: Path, postgres_url: str) -> None:
    error = run("-A", "shop", "up", "--json", cwd=shop, LASH_DATABASE_URL=postgres_url).error

    assert error["code"] == "configuration"
    assert error["message"].startswith("Set LASH_REDIS_URL")
    assert run("db", "check", "--json", LASH_DATABASE_URL=postgres_url).error["code"] == "schema_behind"


def test_an_application_that_says_embedded_is_not_run_on_postgres(shop: Path, distributed: dict[str, str]) -> None:
    (shop / "alone.py").write_text("from lash_tasks import Lash\nlash = Lash(embedded=True)\n")
    error = run("-A", "alone", "up", "--json", cwd=shop, **distributed).error

    assert "set LASH_DATABASE_URL to sqlite:///…" in error["message"]
