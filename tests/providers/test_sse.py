"""Server-sent events come out whole, however the bytes were cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.providers.sse import EventTooLarge, SseDecoder


def decode(*chunks: bytes) -> list[str]:
    decoder = SseDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.flush()


def decode_with(decoder: SseDecoder, chunk: bytes, times: int) -> None:
    for _ in range(times):
        decoder.feed(chunk)


def test_a_character_split_over_two_chunks_is_whole() -> None:
    encoded = "data: €😀\n\n".encode()
    for cut in range(len(encoded)):
        assert decode(encoded[:cut], encoded[cut:]) == ["€😀"]


def test_the_last_event_needs_no_blank_line_and_no_line_end() -> None:
    assert decode(b"data: one\n\ndata: two\n") == ["one", "two"]
    assert decode(b"data: one\n\ndata: two") == ["one", "two"]


def test_an_unfinished_event_is_delivered_only_by_the_end() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: one\n") == []
    assert decoder.flush() == ["one"]
    assert decoder.flush() == []


def test_several_data_lines_are_one_event() -> None:
    assert decode(b"data: one\ndata:two\ndata:\n\n") == ["one\ntwo\n"]


def test_comments_and_other_fields_are_ignored() -> None:
    assert decode(b": ping\n\nevent: delta\nid: 7\nretry: 5\ndata: one\n\n:\n\n\n\n") == ["one"]


def test_carriage_returns_belong_to_the_line_end() -> None:
    assert decode(b"data: one\r\n\r\ndata: two\r", b"\n\r\n") == ["one", "two"]


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert decode(b"data: a\xffb\n\n") == ["a�b"]


@given(
    st.lists(st.text(alphabet=st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"])), max_size=5),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_the_cuts_never_matter(texts: list[str], cuts: list[int]) -> None:
    encoded = "".join(f"data: {text}\n\n" for text in texts).encode()
    edges = [0, *sorted(min(cut, len(encoded)) for cut in cuts), len(encoded)]
    chunks = [encoded[start:end] for start, end in itertools.pairwise(edges)]
    assert decode(*chunks) == decode(encoded)
    assert len(decode(encoded)) == len(texts)


@pytest.mark.parametrize("endless", [b"x" * 50, b"data: x\n" * 20], ids=["a line", "an event of many lines"])
def test_an_event_without_end_is_refused(endless: bytes) -> None:
    decoder = SseDecoder(max_event_bytes=100)
    decoder.feed(b"data: small\n\n")
    with pytest.raises(EventTooLarge):
        decode_with(decoder, endless, 10)


def test_comments_do_not_add_up_to_an_event() -> None:
    decoder = SseDecoder(max_event_bytes=20)
    for _ in range(100):
        assert decoder.feed(b": ping\r\n") == []
