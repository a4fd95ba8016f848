"""Agents named by import strings or found in a Django project; every mistake names what has to be changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import celery
import pytest

from lash_tasks import Agent, Lash, Settings
from lash_tasks.errors import ConfigurationError
from tests.cli.calling import environment

SETTINGS = Settings(database_url="postgresql://nowhere/lash", redis_url="redis://nowhere/0")
DESK = """
from lash_tasks import Agent
support = Agent("support", "scripted:echo")
class Team:
    sales = Agent("sales", "scripted:echo")
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place to import from; what was imported from it is forgotten."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_string_is_resolved_when_celery_imports_its_modules(directory: Path) -> None:
    (directory / "desk.py").write_text(DESK)
    with celery.Celery("theirs", set_as_current=False) as app:
        lash = Lash(["desk:support", "desk:Team.sales", Agent("own", "scripted:echo")], celery=app, settings=SETTINGS)
        assert "desk" not in sys.modules
        app.loader.import_default_modules()

        assert sorted(lash.agents) == ["own", "sales", "support"]
        assert lash.agents["support"] is sys.modules["desk"].support


MISTAKES = [
    ("no.such.module:support", r"'no\.such\.module:support' cannot be imported \(ModuleNotFoundError: No module"),
    ("broken:support", r"'broken:support' cannot be imported \(ZeroDivisionError: division by zero\)"),
    ("desk:nobody", r"'desk:nobody' names nothing: desk has no 'nobody'"),
    ("desk:Team.nobody", r"'desk:Team\.nobody' names nothing: desk has no 'Team\.nobody'"),
    ("desk:Team", r"'desk:Team' names a type, which must be an Agent"),
]


@pytest.mark.parametrize(("string", "sentence"), MISTAKES, ids=[string for string, _ in MISTAKES])
def test_a_string_that_leads_nowhere_is_named(directory: Path, string: str, sentence: str) -> None:
    (directory / "desk.py").write_text(DESK)
    (directory / "broken.py").write_text("1 / 0\n")
    with celery.Celery("theirs", set_as_current=False) as app:
        Lash([string], celery=app, settings=SETTINGS)
        with pytest.raises(ConfigurationError, match=sentence):
            app.loader.import_default_modules()


@pytest.mark.parametrize("entry", ["desk", "desk:", ":support", "desk:1", "de sk:support", ""])
def test_what_cannot_be_an_import_string_is_refused_at_once(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be an import string such as 'shop\.agents:support'"):
        Lash([entry])


def test_two_agents_of_one_name_are_refused_with_their_places(directory: Path) -> None:
    (directory / "desk.py").write_text(DESK)
    lash = Lash([Agent("support", "scripted:other"), "desk:support"])

    with pytest.raises(
        ConfigurationError, match=r"two agents are named 'support' \(in agents= and in 'desk:support'\)"
    ):
        lash.agents  # noqa: B018 - asking for them resolves them


# ---------------------------------------------------------------- Django

PROJECT = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["shop", "desk", "plain"], LOGGING_CONFIG=None)
from lash_tasks import Lash
from lash_tasks.errors import ConfigurationError
lash = Lash()
lash.autodiscover()
assert "shop.agents" not in sys.modules
try:
    print(*sorted(lash.agents))
except ConfigurationError as error:
    print(error)
"""


def discovered(directory: Path, program: str = PROJECT, **agents: str) -> str:
    """What autodiscovery finds in these apps, or says, in a process that is a Django project."""
    for name in ("shop", "desk", "plain"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").touch()
        if name in agents:
            (directory / name / "agents.py").write_text(f"from lash_tasks import Agent\n{agents[name]}\n")
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_agents_modules_of_installed_apps_are_imported(tmp_path: Path) -> None:
    shop = 'support = Agent("support", "scripted:echo")'
    desk = 'from shop.agents import support\nother = Agent("desk", "scripted:echo")'

    assert discovered(tmp_path, shop=shop, desk=desk) == "desk support"


def test_two_apps_with_an_agent_of_one_name(tmp_path: Path) -> None:
    agent = 'a = Agent("support", "scripted:echo")'

    sentence = "two agents are named 'support' (in shop.agents and in desk.agents); give one another name"
    assert discovered(tmp_path, shop=agent, desk=agent) == sentence


def test_without_a_django_project(tmp_path: Path) -> None:
    program = "\n".join(line for line in PROJECT.splitlines() if not line.startswith("settings."))

    said = discovered(tmp_path, program)
    assert said.startswith("autodiscover() could not set Django up; set DJANGO_SETTINGS_MODULE to your Django project")


def test_celery_knows_a_django_project_and_our_senders_are_no_part_of_it(tmp_path: Path) -> None:
    """Celery's fixup would make a client that is the first app in a process the default of the whole project."""
    program = """
import celery, os
from celery import _state
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
from lash_tasks import django
from lash_tasks.celery import create_celery
sender = create_celery("sender", None, only_sends=True)
print(django.serves(sender), _state.default_app is sender, django.serves(celery.Celery("shop")))
"""

    assert discovered(tmp_path, program) == "False False True"
