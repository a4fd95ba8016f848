"""`lash-tasks queue`: what waits, what was cancelled, and what is sent again."""

from __future__ import annotations

from lash_tasks.domain.ids import SessionId
from tests.cli.conftest import Command
from tests.scene import SESSION, Scene


def test_the_queue_lists_input_in_the_order_it_will_run(scene: Scene, lash_tasks: Command) -> None:
    sent = [scene.send(text, idempotency_key=f"key-{text}") for text in ("one", "two", "three")]
    scene.send("elsewhere", session_id="other")
    scene.start()
    rows = lash_tasks("queue", "list", "--session", SESSION, "--json").lines

    assert [row["input_id"] for row in rows] == sent
    assert [row["state"] for row in rows] == ["claimed", "ready", "ready"]
    assert [row["idempotency_key"] for row in rows] == ["key-one", "key-two", "key-three"]
    assert len(lash_tasks("queue", "list", "--json").lines) == 4
    assert "--limit shows more" in lash_tasks("queue", "list", "--limit", "2").stderr


def test_the_queue_says_how_input_was_sent(scene: Scene, lash_tasks: Command) -> None:
    scene.send("wait", when="steer")
    scene.send("b", when="merge", merge_key="m", quiet_ms=500)
    scene.send("stop", when="interrupt")
    rows = lash_tasks("queue", "list", "--session", SESSION, "--json").lines
    shown = [(row["kind"], row["urgent"], row["steers"], row["merge_key"], row["quiet_ms"]) for row in rows]
    assert shown == [
        ("input", True, False, None, None),
        ("input", False, True, None, None),
        ("input", False, False, "m", 500),
    ]


def test_only_input_that_no_turn_has_taken_is_cancelled(scene: Scene, lash_tasks: Command) -> None:
    taken, waiting = scene.send("one"), scene.send("two")
    turn = scene.start()

    def cancel(input_id: str) -> tuple[str, str | None]:
        document = lash_tasks("queue", "cancel", SESSION, input_id, "--json").document
        return document["verdict"], document["turn_id"]

    assert cancel(waiting) == ("cancelled", None)
    assert cancel(taken) == ("taken", turn.intent.turn_id)
    scene.commit(turn)
    assert cancel(waiting)[0] == "ended"
    assert cancel(taken)[0] == "ended"
    assert lash_tasks("queue", "list", "--json").lines == []


def test_a_dead_letter_is_listed_and_sent_again_once(scene: Scene, lash_tasks: Command) -> None:
    for text in ("one", "two"):
        scene.send(text)
        scene.commit(scene.start(), dead_reason="attempts_exhausted")
    second, first = lash_tasks("queue", "dead", "--json").lines
    assert (second["reason"], second["replayed_as"]) == ("attempts_exhausted", None)
    assert lash_tasks("queue", "dead", "--session", "nobody", "--json").lines == []

    replay = ("queue", "replay", first["input_id"], "--json")
    replayed = lash_tasks(*replay).document
    assert (replayed["session_id"], replayed["replay_of"]) == (SESSION, first["input_id"])
    assert lash_tasks(*replay).document == replayed
    (waiting,) = lash_tasks("queue", "list", "--json").lines
    assert waiting["input_id"] == replayed["input_id"]
    assert {row["replayed_as"] for row in lash_tasks("queue", "dead", "--json").lines} == {None, waiting["input_id"]}

    assert scene.open(SessionId(SESSION)).batches[0].id == replayed["input_id"]
