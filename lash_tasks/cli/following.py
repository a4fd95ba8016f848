"""`lash-tasks follow`: a session's events as they happen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lash_tasks.cli.application import open_client
from lash_tasks.cli.output import JsonFlag, Output, command, counted
from lash_tasks.domain.activity import ActivityType

if TYPE_CHECKING:
    from lash_tasks.observation.following import FollowEvent


def follow(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on after this cursor.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a session's live events as they happen, until interrupted."""
    with command(as_json) as output, open_client() as client:
        transcript = Transcript(output, session)
        try:
            for event in client.follow(session, cursor=cursor):
                transcript.show(event)
        except KeyboardInterrupt:
            return


class Transcript:
    """Events as JSON lines; for a person the text as it streams, with a line for whatever else matters."""

    def __init__(self, output: Output, session: str) -> None:
        self._output = output
        self._session = session
        self._streamed: str | None = None  # the turn whose text is on the screen
        self._mid_line = False

    def show(self, event: FollowEvent) -> None:
        if self._output.as_json:
            data = {"type": event.type, "turn_id": event.turn_id, "cursor": event.cursor, "data": event.data}
            self._output.document(data)
        elif event.type is ActivityType.ASSISTANT_PROSE_DELTA:
            self._stream(str(event.data.get("text", "")))
            self._streamed = event.turn_id
        else:
            if event.type is ActivityType.COMMITTED and self._streamed != event.turn_id:
                self._stream(str(event.data["assistant_output"]["safe_text"]))
            line = self._line(event)
            if line is not None:
                self._end_line()
                self._output.console.print(line, markup=False, style="dim")

    def _stream(self, text: str) -> None:
        self._output.console.print(text, end="", markup=False)
        self._mid_line = not text.endswith("\n") if text else self._mid_line

    def _end_line(self) -> None:
        if self._mid_line:
            self._output.console.print()
        self._mid_line = False

    def _line(self, event: FollowEvent) -> str | None:
        data: dict[str, Any] = event.data
        match str(event.type):
            case "snapshot":
                running = "; a turn is running" if data["running"] else ""
                return f"following {self._session}, {counted(data['turn_index'], 'turn')} so far{running}"
            case "turn_started":
                return f"turn {data.get('turn_index', '')}" + (" goes on" if data.get("resumed") else "")
            case "tool_call_started":
                return f"→ {data.get('tool')} {_compact(data.get('arguments'))}"
            case "tool_call_completed":
                return f"← {data.get('tool')} {data.get('status')}, {data.get('duration_ms')} ms"
            case "stream_reset":
                return "↺ the model is asked again; its answer so far does not count"
            case "reset":
                return f"↺ attempt {data.get('attempt')}; what came so far of this turn does not count"
            case "gap":
                return f"… live events were lost ({data.get('reason')})"
            case "committed":
                return f"✓ turn {data['turn_index']} committed"
            case "agent_frame_switched":
                return f"⇢ goes on in frame {data['frame_id']}: {data['task']}"
            case "queued_input_accepted":
                return "\n".join(f"+ {joined['message']}" for joined in data["inputs"])
            case (
                "model_request_started"
                | "usage"
                | "reasoning_delta"
                | "queued_work_started"
                | "queue_changed"
                | "queued_messages_committed"
            ):
                return None
            case other:
                return f"{other} {_compact(data)}"


def _compact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
