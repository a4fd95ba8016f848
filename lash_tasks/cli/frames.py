"""`lash-tasks sessions frames`: the frames of a session, and what was said in each."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_tasks.cli.application import open_client, session_id
from lash_tasks.cli.inspection import Session, head_of, show_message
from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.frames import FrameRecord
from lash_tasks.domain.messages import Message
from lash_tasks.domain.sessions import transcript
from lash_tasks.errors import NotFound


def list_frames(
    session: Session,
    frame: Annotated[str | None, typer.Option("--frame", help="Show what was said in this frame.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List a session's frames, oldest first, or show the transcript of one."""
    with command(as_json) as output, open_client() as client:
        head_of(client, session_id(session))
        found = client.frames(session)
        if frame is None:
            rows = [{**to_json(FrameRecord, one), "created_at": one.created_at} for one in found]
            output.rows(rows, ["frame_id", "status", "reason", "created_at_ms"], empty=f"{session} has no frames")
            return
        wanted = next((one for one in found if one.frame_id == frame), None)
        if wanted is None:
            raise NotFound("frame", frame)
        history = client.stores.frames.history(session_id(session), frame)
        messages = transcript(stored.node for stored in history)
        if not output.as_json:
            for message in messages:
                show_message(output, message)
            return
        shown = [to_json(Message, message) for message in messages]
        output.document({**to_json(FrameRecord, wanted), "created_at": wanted.created_at, "messages": shown})
