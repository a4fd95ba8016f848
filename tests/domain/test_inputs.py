"""Inputs are normalised before they are stored: text joined, images recognised by their bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.inputs import (
    ImageRefItem,
    InputItem,
    QueuedInput,
    TextItem,
    TurnInput,
    image_media_type,
    normalise,
)
from lash_tasks.domain.messages import ImagePart, TextPart
from lash_tasks.errors import InvalidInput
from tests.domain.json_values import broken_texts
from tests.domain.laws import law

PNG = b"\x89PNG\r\n\x1a\n..."
JPEG = b"\xff\xd8\xff\xe0..."


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (b"GIF87a...", "image/gif"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"BM....", "image/bmp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"<svg/>", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_the_media_type_is_in_the_bytes(content: bytes, media_type: str | None) -> None:
    assert image_media_type(content) == media_type


def test_text_around_an_image_stays_around_it() -> None:
    items = (TextItem("a"), TextItem("b"), ImageRefItem("x"), TextItem(""), TextItem("c"))

    parts, blobs = normalise(TurnInput(items, {"x": PNG}))

    assert parts == (TextPart("ab"), ImagePart(blob_ref(PNG), "image/png", "x"), TextPart("c"))
    assert [(blob.ref, blob.content) for blob in blobs] == [(blob_ref(PNG), PNG)]


def test_an_image_that_is_sent_twice_is_stored_once() -> None:
    items = (ImageRefItem("x"), ImageRefItem("y"))

    parts, blobs = normalise(TurnInput(items, {"x": PNG, "y": PNG}))

    assert [part.label for part in parts if isinstance(part, ImagePart)] == ["x", "y"]
    assert len(blobs) == 1


def test_bytes_that_no_item_refers_to_are_ignored() -> None:
    assert normalise(TurnInput((TextItem("a"),), {"x": b"not even an image"})) == ((TextPart("a"),), ())


def test_white_space_beside_content_is_kept() -> None:
    parts, _ = normalise(TurnInput((ImageRefItem("x"), TextItem("\n")), {"x": PNG}))

    assert parts[1] == TextPart("\n")


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ((), "text: must not be empty"),
        ((TextItem(""), TextItem(" \t\n")), "text: must not be empty"),
        ((TextItem("a"), ImageRefItem("")), "input.items[1].id: must not be empty"),
        ((ImageRefItem("  "),), "input.items[0].id: must not be empty"),
        ((ImageRefItem("gone"),), "input.items[0].id: there is no image_blobs entry 'gone'"),
        ((ImageRefItem("pdf"),), "input.image_blobs['pdf']: is not a png, jpeg, gif, webp or bmp image"),
    ],
)
def test_an_input_that_cannot_be_used_is_refused_by_field(items: tuple[InputItem, ...], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        normalise(TurnInput(items, {"pdf": b"%PDF-1.7", "": PNG, "  ": PNG}))
    assert str(refused.value) == sentence
    assert refused.value.field == sentence.split(":", 1)[0]


def test_half_an_emoji_does_not_reach_the_transcript() -> None:
    """A client that cuts text at 16-bit units leaves half a character, which cannot be printed or sent as UTF-8."""
    parts, _ = normalise(TurnInput((TextItem("hi \ud83d"), ImageRefItem("x\udc00")), {"x\udc00": PNG}))

    assert parts == (TextPart("hi \ufffd"), ImagePart(blob_ref(PNG), "image/png", "x\ufffd"))


items = st.lists(st.one_of(broken_texts.map(TextItem), st.sampled_from(["x", "y"]).map(ImageRefItem)), max_size=8).map(
    tuple
)


@law
@given(items)
def test_what_is_accepted_is_in_its_simplest_form_and_survives_the_queue(content: tuple[InputItem, ...]) -> None:
    try:
        parts, blobs = normalise(TurnInput(content, {"x": PNG, "y": JPEG}))
    except InvalidInput:
        assert not any(isinstance(item, ImageRefItem) or item.text.strip() for item in content)
        return
    texts = [part for part in parts if isinstance(part, TextPart)]
    assert all(part.text for part in texts)
    assert not any(isinstance(a, TextPart) and isinstance(b, TextPart) for a, b in pairwise(parts))
    assert {blob.ref for blob in blobs} == {part.blob for part in parts if isinstance(part, ImagePart)}
    queued = QueuedInput("support", parts, {"user": 1})
    assert decode(QueuedInput, encode(QueuedInput, queued)) == queued
    "".join(part.text for part in texts).encode("utf-8")
