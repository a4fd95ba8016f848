"""A doorbell that cannot be rung: whoever rings has stored its work, and is not to wait for a broker."""

from __future__ import annotations

import pytest

from lash_tasks.celery import create_celery
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.domain.ids import SessionId


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"])
def test_a_broker_that_is_down_holds_nobody_up(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Kombu's own patience is four seconds and more, for every sender, as long as the broker is down."""
    app, clock = create_celery("test", url), SystemClock()
    started = clock.monotonic()
    CeleryDoorbell(app, clock).ring_session(SessionId("customer-7"))
    app.close()

    assert clock.monotonic() - started < 1.5
    assert [record.message for record in caplog.records] == ["a doorbell could not be rung; the sweep will"]
