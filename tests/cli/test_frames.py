"""`lash-tasks sessions frames`, and what the other commands say of a run through frames."""

from __future__ import annotations

import pytest

from lash_tasks.domain.frames import FrameSwitch, read_seeds
from tests.cli.conftest import Command
from tests.scene import SESSION, Scene


@pytest.fixture
def switched(scene: Scene) -> Scene:
    """A session that went on in another frame."""
    scene.send("plan it")
    scene.commit(scene.open(), "", switch=FrameSwitch("plan", "book it", read_seeds(["a trip"])))
    scene.answer("booked")
    return scene


@pytest.mark.shows("F1")
def test_frames_are_listed_oldest_first(switched: Scene, lash_tasks: Command) -> None:
    initial, plan = lash_tasks("sessions", "frames", SESSION, "--json").lines

    assert (initial["frame_id"], initial["status"], initial["reason"]) == (
        f"{SESSION}:frame:initial",
        "superseded",
        "initial",
    )
    assert (plan["frame_id"], plan["status"], plan["reason"]) == ("plan", "active", "continue_as")
    assert plan["previous_frame_id"] == initial["frame_id"]
    assert plan["created_at"].endswith("Z")
    assert "continue_as" in lash_tasks("sessions", "frames", SESSION).stdout


def test_a_frame_is_shown_with_what_was_said_in_it(switched: Scene, lash_tasks: Command) -> None:
    shown = lash_tasks("sessions", "frames", SESSION, "--frame", "plan", "--json").document
    assert (shown["frame_id"], shown["status"]) == ("plan", "active")
    assert [message["parts"][0]["text"] for message in shown["messages"]] == ["a trip", "booked"]
    assert lash_tasks("sessions", "frames", SESSION, "--frame", "plan").stdout.splitlines() == [
        "     user  a trip",
        "assistant  booked",
    ]


def test_a_frame_or_a_session_that_is_not_there(switched: Scene, lash_tasks: Command) -> None:
    missing = lash_tasks("sessions", "frames", SESSION, "--frame", "pay", "--json")
    assert missing.error["code"] == "not_found"
    assert lash_tasks("sessions", "frames", "nobody", "--json").error["code"] == "not_found"


def test_a_turn_that_switched_says_so(switched: Scene, lash_tasks: Command) -> None:
    assert "went on in frame plan" in lash_tasks("turns", "show", SESSION, "1").stdout
    assert lash_tasks("turns", "show", SESSION, "1", "--json").document["outcome"] == {
        "frame_id": "plan",
        "task": "book it",
        "type": "agent_frame_switch",
    }
