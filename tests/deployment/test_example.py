"""examples/support.py runs as it stands: embedded, over a local endpoint, with no line of it changed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lash_tasks.domain.codec import JsonObject
from tests.cli.calling import python, run
from tests.cli.running import running
from tests.deployment.compose import EXAMPLES
from tests.endpoint import ModelEndpoint, Reply, converse, last_user_text, tool_reply


def charge_when_told(request: JsonObject) -> Reply:
    """The plain conversation, in which a text with `charge` makes the model charge a card."""
    if "charge" in last_user_text(request) and request["messages"][-1]["role"] != "tool":
        return tool_reply("charge_card", {"order_id": "12", "cents": 500})
    return converse(request)


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    with ModelEndpoint(charge_when_told) as endpoint:
        yield endpoint


def test_the_example_answers_and_calls_its_tools(tmp_path: Path, endpoint: ModelEndpoint) -> None:
    database = {"LASH_DATABASE_URL": f"sqlite:///{tmp_path / 'lash.db'}"}
    model = {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "sk-test"}
    (tmp_path / "support.py").symlink_to(EXAMPLES / "support.py")

    def ask(text: str) -> Any:
        return run("send", "customer-7", text, "--wait", "--json", cwd=tmp_path, **database).document

    with running("-A", "support", "up", directory=tmp_path, **database, **model) as up:
        assert up.next_line()["agents"] == ["support"]
        looked_up, charged = ask("Where is order 12?"), ask("Please charge my card.")
        assert up.stop(signal.SIGTERM) == 0

    assert looked_up["assistant_output"]["safe_text"] == "answer: Where is order 12?"
    (call,) = looked_up["tool_calls"]
    assert (call["tool"], call["outcome"]["value"]["state"]) == ("lookup_order", "shipped")
    (call,) = charged["tool_calls"]
    assert call["tool"] == "charge_card"
    assert call["outcome"]["value"].startswith("charged 500 for 12 (lash-")
    assert {seen.body["model"] for seen in endpoint.requests} == {"gpt-5-mini"}


def test_the_example_can_be_imported_anywhere_and_is_a_celery_application() -> None:
    """Without any setting: whoever imports it may only want its names."""
    printed = python(
        f"import sys, json; sys.path.insert(0, {str(EXAMPLES)!r}); import support;"
        "support.app.loader.import_default_modules();"
        "print(json.dumps([name for name in support.app.tasks if name.startswith('lash.')]))"
    )
    assert printed.exit_code == 0, printed.stderr
    assert {"lash.run_session", "lash.send", "lash.cancel", "lash.sweep"} <= set(json.loads(printed.stdout))
