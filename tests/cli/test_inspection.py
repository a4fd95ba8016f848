"""`lash-tasks sessions` and `turns`: what is committed, page by page, for a program and for a person."""

from __future__ import annotations

from lash_tasks.domain.ids import SessionId
from tests.cli.conftest import Command
from tests.cli.test_sending import TURN_KEYS
from tests.scene import SESSION, Scene


def answer(scene: Scene, *texts: str, session: str = SESSION) -> None:
    for text in texts:
        scene.send(f"say {text}", session_id=session)
        scene.answer(text, SessionId(session))


def test_turns_are_listed_oldest_first_with_all_that_the_contract_names(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one", "two", "three")
    turns = lash_tasks("turns", "list", "--session", SESSION, "--json").lines

    assert all(set(turn) >= TURN_KEYS for turn in turns)
    assert [turn["assistant_output"]["safe_text"] for turn in turns] == ["one", "two", "three"]
    assert [turn["turn_index"] for turn in turns] == [1, 2, 3]
    assert all(set(turn["assistant_output"]) == {"safe_text", "raw_text", "state"} for turn in turns)
    assert [turn["committed_at_ms"] for turn in turns] == sorted(turn["committed_at_ms"] for turn in turns)


def test_a_long_session_is_listed_to_its_end(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, *(str(number) for number in range(205)))
    turns = lash_tasks("turns", "list", "--session", SESSION, "--json").lines

    assert [turn["turn_index"] for turn in turns] == list(range(1, 206))


def test_a_page_of_turns(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one", "two", "three", "four")
    page = lash_tasks("turns", "list", "--session", SESSION, "--after", "1", "--limit", "2", "--json").lines

    assert [turn["turn_index"] for turn in page] == [2, 3]


def test_a_turn_that_runs_is_shown_to_a_person_and_not_counted_as_committed(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one")
    scene.send("go on")
    running = scene.start()

    assert len(lash_tasks("turns", "list", "--session", SESSION, "--json").lines) == 1
    assert "running" in lash_tasks("turns", "list", "--session", SESSION).stdout
    shown = lash_tasks("turns", "show", SESSION, "2", "--json").document
    assert (shown["turn_id"], shown["status"]) == (running.intent.turn_id, "running")


def test_a_turn_that_says_nothing_is_listed_with_how_it_ended(scene: Scene, lash_tasks: Command) -> None:
    scene.send("go on")
    scene.commit(scene.open(), "", dead_reason="attempts_exhausted")

    assert "[stopped (runtime_error)]" in lash_tasks("turns", "list", "--session", SESSION).stdout


def test_how_a_turn_ended_is_the_result_where_it_did_not_finish(scene: Scene, lash_tasks: Command) -> None:
    scene.send("go on")
    scene.commit(scene.open(), "as far as", dead_reason="attempts_exhausted")
    shown = lash_tasks("turns", "show", SESSION, "1")

    assert shown.stdout == "as far as\nturn 1 stopped (runtime_error), 0 tokens\n"
    assert shown.stderr == ""


def test_a_turn_is_shown_by_its_id_or_its_index(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one", "two")
    by_index = lash_tasks("turns", "show", SESSION, "2", "--json").document
    by_id = lash_tasks("turns", "show", SESSION, by_index["turn_id"], "--json").document

    assert by_index == by_id
    assert lash_tasks("turns", "show", SESSION, "2").stdout == "two\n"


def test_a_turn_that_runs_is_listed_with_its_id_and_cancelled_by_its_id_or_its_index(
    scene: Scene, lash_tasks: Command
) -> None:
    """`turns cancel` took an index for an id, and said of a turn that ran that it had ended."""
    answer(scene, "one")
    scene.send("go on")
    turn_id = scene.start().intent.turn_id

    assert turn_id in lash_tasks("turns", "list", "--session", SESSION).stdout
    for named in ("2", turn_id):
        assert lash_tasks("turns", "cancel", SESSION, named, "--json").document == {
            "session_id": SESSION,
            "turn_id": turn_id,
            "verdict": "requested",
        }
    assert lash_tasks("turns", "cancel", SESSION, "1", "--json").document["verdict"] == "ended"


def test_a_turn_that_never_was_cannot_be_cancelled(scene: Scene, lash_tasks: Command) -> None:
    refused = lash_tasks("turns", "cancel", "nobody", "x", "--json").error
    assert (refused["code"], refused["message"]) == ("not_found", "there is no turn 'x'")


def test_sessions_are_listed_by_id_page_by_page(scene: Scene, lash_tasks: Command) -> None:
    for name in ("c", "a", "b"):
        answer(scene, "hello", session=name)

    listed = lash_tasks("sessions", "list", "--limit", "2", "--json")
    assert [session["session_id"] for session in listed.lines] == ["a", "b"]
    rest = lash_tasks("sessions", "list", "--after", "b", "--json").lines
    assert [(session["session_id"], session["turn_index"]) for session in rest] == [("c", 1)]
    assert "--after b" in lash_tasks("sessions", "list", "--limit", "2").stderr


def test_a_session_is_shown_with_its_transcript(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one", "two")
    shown = lash_tasks("sessions", "show", SESSION, "--json").document

    assert (shown["session_id"], shown["turn_index"]) == (SESSION, 2)
    assert [message["parts"][0]["text"] for message in shown["messages"]] == ["one", "two"]
    assert lash_tasks("sessions", "show", SESSION).stdout == "assistant  one\nassistant  two\n"
    assert lash_tasks("sessions", "show", SESSION).stderr == f"{SESSION}: 2 turns\n"


SHOWS = [("sessions", "show"), ("sessions", "frames"), ("usage", "--report", "--session")]
LISTS = [("turns", "list", "--session"), ("queue", "list", "--session"), ("usage", "--session")]


def test_what_shows_a_session_is_refused_where_there_is_none_and_its_lists_are_empty(
    scene: Scene, lash_tasks: Command
) -> None:
    answer(scene, "one", session="gone")
    lash_tasks("sessions", "delete", "gone")

    for session, code in (("nobody", "not_found"), ("gone", "session_deleted")):
        assert {lash_tasks(*show, session, "--json").error["code"] for show in SHOWS} == {code}
        assert [lash_tasks(*listing, session, "--json").lines for listing in LISTS] == [[], [], []]
        assert [lash_tasks(*listing, session).exit_code for listing in LISTS] == [0, 0, 0]


def test_a_deleted_session_takes_no_more_input(scene: Scene, lash_tasks: Command) -> None:
    answer(scene, "one")
    assert lash_tasks("sessions", "delete", SESSION, "--json").document == {"session_id": SESSION, "deleted": True}

    assert lash_tasks("sessions", "list", "--json").lines == []
    assert lash_tasks("turns", "list", "--session", SESSION, "--json").lines == []
    assert lash_tasks("sessions", "show", SESSION, "--json").error["code"] == "session_deleted"
    assert lash_tasks("send", SESSION, "hello", "--json").error["code"] == "session_deleted"
