"""Arguments of a client that no type checker would let pass are refused like any other bad input.

The story: fuzzing the client found a TypeError of `re` for a cursor that is no string, one of `dataclasses` for a
TurnInput that holds anything but items, and one of `datetime` for a time zone that knows no offset. Later a newcomer
found those of the waits, and flags that were taken for true whatever they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, cast

import pytest

from lash_tasks import Agent, Client, Lash, Settings
from lash_tasks.domain.inputs import TextItem, TurnInput
from lash_tasks.errors import InvalidInput


class NoOffset(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'lash.db'}")
    with Lash([Agent("support", "scripted:echo")], embedded=True, settings=settings) as lash:
        yield lash.client


@pytest.mark.parametrize(("items", "images"), [(None, {}), (("x",), {}), ((TextItem,), {}), ((), 5)])
def test_an_input_of_odd_things_is_refused(client: Client, items: Any, images: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^text: must be a TurnInput of text and image items"):
        client.send("s", TurnInput(items, images), agent="support")
    assert client.stores.queue.waiting() == []


def test_a_time_without_an_offset_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"^available_at: must be a datetime with a time zone$"):
        client.send("s", "hello", agent="support", available_at=datetime(2026, 1, 1, tzinfo=NoOffset()))
    assert client.stores.queue.waiting() == []


@pytest.mark.parametrize("odd", [5, b"lashfc1", [], {}])
def test_a_cursor_that_is_no_string_is_refused(client: Client, odd: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^cursor: must be a string"):
        client.follow("s", odd)


NO_SECONDS = pytest.mark.parametrize(
    ("odd", "problem"),
    [("x", "must be seconds, or None, not str"), (True, "must be seconds"), (-1, "must be at least 0 seconds, not -1")],
)


@NO_SECONDS
def test_a_timeout_that_is_no_number_of_seconds_is_refused(client: Client, odd: Any, problem: str) -> None:
    receipt = client.send("s", "hello", agent="support")
    for wait in (receipt.result, receipt.run):
        with pytest.raises(InvalidInput, match=f"^timeout: {problem}"):
            wait(timeout=odd)


@NO_SECONDS
def test_an_idle_timeout_that_is_no_number_of_seconds_is_refused(client: Client, odd: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match=f"^idle_timeout: {problem}"):
        client.follow("s", idle_timeout=odd)


def test_what_cannot_be_set_stops_nobody(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"^stop: must be a threading.Event, or None, not int$"):
        client.follow("s", stop=cast(Any, 5))


@pytest.mark.parametrize("flag", ["only_if_idle", "purge"])
def test_a_session_is_not_deleted_on_conditions_that_say_nothing(client: Client, flag: str) -> None:
    client.create_session("s")
    with pytest.raises(InvalidInput, match=f"^{flag}: must be True or False, not str$"):
        client.delete_session("s", **cast(Any, {flag: "no"}))
    assert client.session("s").session_id == "s"


def test_a_session_does_not_begin_anew_by_accident(client: Client) -> None:
    revision = client.create_session("s").revision
    with pytest.raises(InvalidInput, match=r"^fresh: must be True or False, not str$"):
        client.create_session("s", fresh=cast(Any, "no"))
    assert client.session("s").revision == revision
