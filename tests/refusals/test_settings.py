"""Settings that cannot be right: one sentence names the variable, before anything is opened."""

from __future__ import annotations

import pytest

from lash_tasks.errors import ConfigurationError
from lash_tasks.settings import Settings


@pytest.mark.parametrize("url", ["foo", "foo://", "localhost:6379", "://", "http://user:secret@host"])
def test_a_broker_that_celery_does_not_know_is_refused(url: str) -> None:
    """`foo://` was a KeyError in the worker, and `foo` a host that nobody asked."""
    with pytest.raises(ConfigurationError, match=r"^LASH_BROKER_URL: must begin with redis://, amqp://") as refused:
        Settings.from_environment({"LASH_BROKER_URL": url})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "amqp://a;amqp://b",
        "sentinel://a:26379;sentinel://b:26379",
        "sqla+postgresql://localhost/shop",
        "shop.brokers:Transport://host",
        "memory://",
    ],
)
def test_a_broker_that_celery_knows_is_not(url: str) -> None:
    assert Settings.from_environment({"LASH_BROKER_URL": url}).broker_url == url
