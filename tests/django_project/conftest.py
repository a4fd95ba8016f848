"""The example project on servers of its own, migrated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_tasks.domain.codec import JsonObject
from tests.endpoint import ModelEndpoint, Reply, last_user_text, text_reply, tool_reply
from tests.faults.cluster import ROOT, Cluster

EXAMPLE = ROOT / "examples" / "django"


def confirm_and_count(request: JsonObject) -> Reply:
    """A model that confirms the order it is told of, counts the open ones, and says what it was told to be."""
    results = [message for message in request["messages"] if message["role"] == "tool"]
    match len(results):
        case 0:
            return tool_reply("confirm", {"reference": last_user_text(request).split()[1]})
        case 1:
            return tool_reply("count_open", {}, call_id="call_2")
        case _:
            told = ", ".join(result["content"] for result in results)
            return text_reply(f"{told}; {request['messages'][0]['content']}")


@pytest.fixture
def project(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[Cluster]:
    """Django and we have one database; the project's broker is our Redis."""
    with ModelEndpoint(confirm_and_count) as endpoint:
        cluster = Cluster(tmp_path, postgres_url, redis_url, endpoint, 3.0)
        plain = postgres_url.replace("postgresql+psycopg", "postgresql", 1)
        cluster.environment |= {"DATABASE_URL": plain, "CELERY_BROKER_URL": redis_url}
        manage = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(manage, cwd=EXAMPLE, env=cluster.environment, check=True, timeout=50)
        yield cluster
