"""`lash-tasks follow` on an embedded stack, and how it looks to a person."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from lash_tasks.cli.following import Transcript
from lash_tasks.cli.output import Output
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.ids import TurnId
from lash_tasks.observation.following import FollowEvent, Marker
from tests.cli.running import running
from tests.embedded.application import AGENT, application
from tests.services import wait_until


def test_turns_of_an_embedded_stack_in_another_process_are_followed(tmp_path: Path, sqlite_url: str) -> None:
    with application(tmp_path) as lash:
        lash.client.send("s", "before", agent=AGENT).result(timeout=20)
        with running("follow", "s", directory=tmp_path, LASH_DATABASE_URL=sqlite_url) as follow:
            snapshot = follow.next_line()
            assert (snapshot["type"], snapshot["data"]["turn_index"]) == ("snapshot", 1)
            for said in ("one", "two"):
                lash.client.send("s", said, agent=AGENT)
            committed = [follow.next_line(), follow.next_line()]
            assert [event["type"] for event in committed] == ["committed", "committed"]
            texts = [event["data"]["assistant_output"]["safe_text"] for event in committed]
            assert texts == ["You said: one", "You said: two"]
            assert all(set(event) == {"type", "turn_id", "cursor", "data"} for event in committed)
            assert follow.stop(signal.SIGINT) == 0
            assert follow.rest() == []

        cursor = committed[0]["cursor"]
        with running("follow", "--cursor", cursor, "s", directory=tmp_path, LASH_DATABASE_URL=sqlite_url) as again:
            assert again.next_line()["type"] == "snapshot"
            assert again.next_line()["turn_id"] == committed[1]["turn_id"]


def test_a_session_that_is_deleted_ends_the_following(tmp_path: Path, sqlite_url: str) -> None:
    with application(tmp_path) as lash:
        lash.client.send("s", "before", agent=AGENT).result(timeout=20)
        with running("follow", "s", directory=tmp_path, LASH_DATABASE_URL=sqlite_url) as follow:
            follow.next_line()
            lash.client.stores.sessions.delete(lash.client.stores.sessions.sessions()[0].session_id)
            assert follow.next_line()["error"]["code"] == "session_deleted"
            wait_until(lambda: not follow.alive, 10, "the command to end")


def event(kind: ActivityType | Marker, turn: str | None = "t1", **data: JsonValue) -> FollowEvent:
    return FollowEvent(kind, "cursor", data, None if turn is None else TurnId(turn))


def committed(turn: str, index: int, text: str) -> FollowEvent:
    return event(ActivityType.COMMITTED, turn, turn_index=index, assistant_output={"safe_text": text})


def test_a_person_reads_the_text_as_it_streams_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(Output(as_json=False), "s")
    for one in (
        event(Marker.SNAPSHOT, None, turn_index=3, running=None),
        event(ActivityType.TURN_STARTED, turn_index=4),
        event(ActivityType.TOOL_CALL_STARTED, tool="lookup", arguments='{"id": 1}'),
        event(ActivityType.TOOL_CALL_COMPLETED, tool="lookup", status="success", duration_ms=7),
        event(ActivityType.ASSISTANT_PROSE_DELTA, text="It is [bold]"),
        event(ActivityType.ASSISTANT_PROSE_DELTA, text=" shipped."),
        committed("t1", 4, "It is [bold] shipped."),
        event(Marker.GAP, None, reason="unavailable"),
        committed("t2", 5, "Said while nobody listened."),
    ):
        transcript.show(one)

    assert capsys.readouterr().out.splitlines() == [
        "following s, 3 turns so far",
        "turn 4",
        '→ lookup {"id": 1}',
        "← lookup success, 7 ms",
        "It is [bold] shipped.",
        "✓ turn 4 committed",
        "… live events were lost (unavailable)",
        "Said while nobody listened.",
        "✓ turn 5 committed",
    ]


def test_a_person_sees_what_joins_the_turn_and_not_what_only_moves_the_queue(
    capsys: pytest.CaptureFixture[str],
) -> None:
    transcript = Transcript(Output(as_json=False), "s")
    joined = {"checkpoint": "after_work", "inputs": [{"input_id": "b2", "message": "Wait, order 13."}]}
    transcript.show(FollowEvent(ActivityType.QUEUE_CHANGED, "c", {"kind": "enqueued", "batch_ids": ["b2"]}))
    transcript.show(FollowEvent(ActivityType.QUEUED_WORK_STARTED, "c", {"boundary": "idle", "batch_ids": ["b1"]}))
    transcript.show(FollowEvent(ActivityType.QUEUED_INPUT_ACCEPTED, "c", joined))
    assert capsys.readouterr().out == "+ Wait, order 13.\n"


def test_a_person_is_told_when_what_was_streamed_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(Output(as_json=False), "s")
    for one in (
        event(ActivityType.ASSISTANT_PROSE_DELTA, text="Half an ans"),
        event(Marker.RESET, attempt=2),
        event(ActivityType.ASSISTANT_PROSE_DELTA, text="Half an answer"),
        event(ActivityType.STREAM_RESET),
        event(ActivityType.ASSISTANT_PROSE_DELTA, text="A whole answer"),
        committed("t1", 1, "A whole answer"),
    ):
        transcript.show(one)

    out = capsys.readouterr().out.splitlines()
    assert out[0::2] == ["Half an ans", "Half an answer", "A whole answer"]
    assert out[1].startswith("↺ attempt 2")
    assert out[3].startswith("↺ the model is asked again")


def test_a_person_sees_where_a_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(Output(as_json=False), "s")
    transcript.show(committed("t1", 4, ""))
    transcript.show(event(Marker.AGENT_FRAME_SWITCHED, frame_id="plan", task="book it", follow_up="t1:agent-frame:1"))

    assert capsys.readouterr().out.splitlines() == ["✓ turn 4 committed", "⇢ goes on in frame plan: book it"]
