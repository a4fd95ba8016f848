"""An input is text and images in order, checked before anything is stored."""

from __future__ import annotations

import pytest

from lash_tasks.domain.inputs import ImageRefItem, TextItem, TurnInput, normalise
from lash_tasks.domain.messages import ImagePart, TextPart
from lash_tasks.errors import InvalidInput

JPEG = b"\xff\xd8\xff\xe0 and so on"


def test_text_that_stands_together_is_joined() -> None:
    """Nothing is put between the pieces: whoever cut the text knows where."""
    items = (TextItem("a"), TextItem("b"), ImageRefItem("photo"), TextItem("c"))

    parts, blobs = normalise(TurnInput(items, {"photo": JPEG}))

    assert parts == (TextPart("ab"), ImagePart(blobs[0].ref, "image/jpeg", "photo"), TextPart("c"))
    assert blobs[0].content == JPEG


@pytest.mark.raises_code("invalid_input")
def test_an_input_without_content_is_refused() -> None:
    """The error names the field."""
    with pytest.raises(InvalidInput, match=r"^text: must not be empty$"):
        normalise(TurnInput.of_text("  \n"))


def test_an_image_without_its_bytes_is_refused() -> None:
    """The error names the item."""
    with pytest.raises(InvalidInput, match=r"^input\.items\[0\]\.id: there is no image_blobs entry 'photo'$"):
        normalise(TurnInput((ImageRefItem("photo"),), {}))
