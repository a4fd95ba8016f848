"""What every dialect does alike with what it sends: JSON that any server can read, images, arguments of tool calls."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

from lash_tasks.domain.codec import JsonObject, parse_object
from lash_tasks.domain.ids import BlobRef
from lash_tasks.domain.messages import ImagePart
from lash_tasks.ports import ProviderFailure

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

LoadBlob = Callable[[BlobRef], bytes]


def encoded(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def image_data(image: ImagePart, load_blob: LoadBlob) -> str:
    """The image as base64; ProviderFailure `unsupported_image_format` for a type that models do not take."""
    if image.media_type not in IMAGE_TYPES:
        raise ProviderFailure(
            f"the model takes no {image.media_type} images; send jpeg, png, gif or webp",
            code="unsupported_image_format",
            kind="validation",
        )
    return base64.b64encode(load_blob(image.blob)).decode("ascii")


def arguments_object(text: str) -> JsonObject | None:
    """What the model wrote if it is a JSON object. A server that parses anything else would refuse the session."""
    try:
        return parse_object(text)
    except ValueError:
        return None
