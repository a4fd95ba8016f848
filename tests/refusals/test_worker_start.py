"""A real Celery worker that may not run: it ends at once, and one sentence on stderr says what to change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lash_tasks import Agent, Lash
from lash_tasks.celery import create_celery, refuse_dangerous_settings
from lash_tasks.errors import ConfigurationError
from tests.cli.calling import environment

APPLICATION = """
from lash_tasks import Agent, Lash
lash = Lash([Agent("support", "scripted:echo")])
app = lash.celery
"""
ADOPTS = """
from celery import Celery
app = Celery("existing", broker="memory://")
lash = Lash([Agent("support", "scripted:echo")], celery=app)
"""
LIMIT_SECONDS = 40.0

POOLS = pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
"""Each opens what it runs on in another process or at another moment; settings of the app are looked at before that."""


def refusal(directory: Path, variables: Mapping[str, str], *, pool: str = "threads", more: str = "") -> str:
    """The sentence with which a worker of the application, with `more` lines, ends."""
    (directory / "shop.py").write_text(APPLICATION + more)
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop", "worker", "-P", pool, "-c", "2"]
    ended = subprocess.run(
        command,
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 1, ended
    (sentence,) = ended.stderr.strip().splitlines()
    assert sentence.startswith("lash-tasks: ")
    assert " ready." not in ended.stdout
    return sentence.removeprefix("lash-tasks: ")


@pytest.fixture
def servers(migrated_postgres_url: str, redis_url: str) -> dict[str, str]:
    """Settings with which a worker would start."""
    return {"LASH_DATABASE_URL": migrated_postgres_url, "LASH_REDIS_URL": redis_url}


# ---------------------------------------------------------------- settings and servers


@POOLS
def test_without_a_database(tmp_path: Path, redis_url: str, pool: str) -> None:
    assert refusal(tmp_path, {"LASH_REDIS_URL": redis_url}, pool=pool) == "Set LASH_DATABASE_URL"


def test_on_sqlite(tmp_path: Path, sqlite_url: str, redis_url: str) -> None:
    sentence = refusal(tmp_path, {"LASH_DATABASE_URL": sqlite_url, "LASH_REDIS_URL": redis_url})

    assert sentence.startswith("Celery workers need a networked database; set LASH_DATABASE_URL to postgresql://")


@pytest.mark.parametrize(
    ("name", "value", "adopts"),
    [("LASH_REDIS_URL", "foo", False), ("LASH_LEASE_TTL", "x", False), ("LASH_LEASE_TTL", "x", True)],
)
def test_with_a_setting_that_cannot_be_read(
    tmp_path: Path, servers: dict[str, str], name: str, value: str, adopts: bool
) -> None:
    """The application reads its settings where `lash.celery` stands, and Celery printed the traceback of its import."""
    sentence = refusal(tmp_path, {**servers, name: value}, more=ADOPTS if adopts else "")

    assert sentence.startswith(f"{name}: ")


def test_nothing_is_sent_with_settings_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASH_REDIS_URL", "foo")
    app = Lash([Agent("support", "scripted:echo")]).celery

    with pytest.raises(ConfigurationError, match=r"^LASH_REDIS_URL: "):
        app.send_task("shop.greet")


@POOLS
def test_with_leases_inside_one_process_and_a_database_that_others_reach(
    tmp_path: Path, servers: dict[str, str], pool: str
) -> None:
    variables = {"LASH_DATABASE_URL": servers["LASH_DATABASE_URL"], "LASH_BROKER_URL": servers["LASH_REDIS_URL"]}

    assert refusal(tmp_path, variables, pool=pool).startswith("Set LASH_REDIS_URL: ")


@POOLS
def test_with_a_schema_that_is_behind(tmp_path: Path, postgres_url: str, redis_url: str, pool: str) -> None:
    variables = {"LASH_DATABASE_URL": postgres_url, "LASH_REDIS_URL": redis_url}

    assert refusal(tmp_path, variables, pool=pool).endswith("; run: lash-tasks db upgrade")


@POOLS
def test_with_an_agent_whose_model_no_server_has(tmp_path: Path, servers: dict[str, str], pool: str) -> None:
    lash = 'lash = Lash([Agent("support", "nope:gpt-5")])\napp = lash.celery\n'

    assert refusal(tmp_path, servers, pool=pool, more=lash).startswith("agent 'support': there is no provider 'nope'")


# ---------------------------------------------------------------- the Celery application


def test_with_tasks_that_run_inside_their_senders(tmp_path: Path, servers: dict[str, str]) -> None:
    sentence = refusal(tmp_path, servers, more="app.conf.task_always_eager = True\n")

    assert sentence.endswith("set it to False")
    assert "task_always_eager" in sentence


def test_without_json_among_what_it_accepts(tmp_path: Path, servers: dict[str, str]) -> None:
    sentence = refusal(tmp_path, servers, more="app.conf.accept_content = ['yaml']\n")

    assert sentence.endswith("add 'json' to it")
    assert "accept_content" in sentence


def test_with_a_celery_application_that_was_there_before(tmp_path: Path, servers: dict[str, str]) -> None:
    yaml_only = "app.conf.accept_content = ['yaml']\n"

    assert refusal(tmp_path, servers, more=ADOPTS + yaml_only).endswith("add 'json' to it")


def pretend(directory: Path, package: str, version: str) -> None:
    """Let whoever has `directory` on its path believe that it has this version."""
    metadata = directory / f"{package}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


@pytest.mark.parametrize("package", ["celery", "kombu"])
@pytest.mark.parametrize("version", ["5.6.9", "5.6rc2"])
def test_with_an_older_celery_or_kombu(tmp_path: Path, servers: dict[str, str], package: str, version: str) -> None:
    pretend(tmp_path, package, version)
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    sentence = refusal(tmp_path, {**servers, "PYTHONPATH": path})

    assert sentence.startswith(f"{package} {version} ")
    assert sentence.endswith(f"install {package}>=5.7")


@pytest.mark.parametrize("version", ["5.7.0", "5.7rc1", "5.10.1", "6.0b1"])
def test_a_newer_celery_is_not_taken_for_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    pretend(tmp_path, "celery", version)
    monkeypatch.syspath_prepend(tmp_path)

    refuse_dangerous_settings(create_celery("test", None), "threads")


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_with_a_pool_that_loses_acknowledgements(pool: str) -> None:
    """Neither is installed here, so no worker could be started with one."""
    with pytest.raises(ConfigurationError, match=f"the {pool} pool .* start the worker with -P threads"):
        refuse_dangerous_settings(create_celery("test", None), pool)


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_what_we_set_up_ourselves_is_not_refused(pool: str) -> None:
    refuse_dangerous_settings(create_celery("test", None), pool)
