"""What a caller sends: text and images, checked and normalised before anything is stored (effects §9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lash_tasks.domain.codec import JsonObject, JsonValue, scrub, short_digest
from lash_tasks.domain.ids import BlobRef, blob_ref
from lash_tasks.domain.messages import ImagePart, TextPart
from lash_tasks.errors import InvalidInput


def context_digest(context: JsonValue, model: str | None = None) -> str:
    """What tells contexts apart: inputs of different ones, or for different models, share no turn. Empty for none."""
    if model is not None:
        return short_digest([context, model])
    return "" if context is None else short_digest(context)


@dataclass(frozen=True, slots=True)
class TextItem:
    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImageRefItem:
    """Refers to one of the input's `image_blobs` by its key."""

    id: str
    type: Literal["image_ref"] = "image_ref"


InputItem = Annotated[TextItem | ImageRefItem, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class TurnInput:
    """Ordered text and images. `image_blobs` maps the id of an image item to its bytes."""

    items: tuple[InputItem, ...]
    image_blobs: Mapping[str, bytes]

    @classmethod
    def of_text(cls, text: str) -> TurnInput:
        return cls((TextItem(text),), {})


@dataclass(frozen=True, slots=True)
class Blob:
    ref: BlobRef
    content: bytes


InputPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class QueuedInput:
    """A normalised input as the queue stores it. `context` is the caller's; the model never sees it."""

    agent: str
    parts: tuple[InputPart, ...]
    context: JsonObject | None = None
    model: str | None = None
    """`provider:model`, for the turn of this input alone; None: the session's."""

    def context_digest(self) -> str:
        return context_digest(self.context, self.model)


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


def image_media_type(content: bytes) -> str | None:
    """The media type by signature: png, jpeg, gif, webp or bmp; None for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((media for signature, media in _SIGNATURES if content.startswith(signature)), None)


def normalise(turn_input: TurnInput) -> tuple[tuple[InputPart, ...], tuple[Blob, ...]]:
    """Parts and blobs of an input: adjacent texts joined, empty ones dropped, images by content, valid Unicode.

    Raises InvalidInput naming the item when nothing is left, an image has no blob, or the bytes are no image.
    Blobs that no item refers to are ignored.
    """
    parts: list[InputPart] = []
    blobs: dict[BlobRef, Blob] = {}
    for index, item in enumerate(turn_input.items):
        if isinstance(item, TextItem):
            _append_text(parts, scrub(item.text))
            continue
        field = f"input.items[{index}].id"
        if not item.id.strip():
            raise InvalidInput(field, "must not be empty")
        content = turn_input.image_blobs.get(item.id)
        if content is None:
            raise InvalidInput(field, f"there is no image_blobs entry {item.id!r}")
        media_type = image_media_type(content)
        if media_type is None:
            raise InvalidInput(f"input.image_blobs[{item.id!r}]", "is not a png, jpeg, gif, webp or bmp image")
        blob = Blob(blob_ref(content), content)
        blobs[blob.ref] = blob
        parts.append(ImagePart(blob.ref, media_type, scrub(item.id)))
    if not any(isinstance(part, ImagePart) or part.text.strip() for part in parts):
        raise InvalidInput("text", "must not be empty")
    return tuple(parts), tuple(blobs.values())


def _append_text(parts: list[InputPart], text: str) -> None:
    if not text:
        return
    if parts and isinstance(parts[-1], TextPart):
        parts[-1] = TextPart(parts[-1].text + text)
    else:
        parts.append(TextPart(text))
