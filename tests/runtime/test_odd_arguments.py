"""Arguments of a client that no type checker would let pass are refused like any other bad input.

The story: fuzzing the client found a TypeError of `re` for a cursor that is no string, one of `dataclasses` for a
TurnInput that holds anything but items, and one of `datetime` for a time zone that knows no offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

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
