"""The checker of runs under faults finds what it is for: each law is shown a history that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checker import Violation, Wrong, check, percentile
from tests.faults.evidence import Evidence, Recorded, Said, Sent, SessionSeen, StaleWrite, Stored, TurnSeen

CLEAN_TURNS = 3


def text(number: int) -> str:
    return f"s i{number}"


def clean() -> Evidence:
    """Three inputs, three turns with a tool call each, one of them taken over once."""
    numbers = range(1, CLEAN_TURNS + 1)
    fences = {1: 1, 2: 4, 3: 6}  # the second turn was opened under 3 and under 4
    return Evidence(
        sent=[Sent(session="s", key=f"k{n}", text=text(n)) for n in numbers],
        stored=[Stored(session="s", key=f"k{n}", seq=n, state="committed", turn_id=f"t{n}") for n in numbers],
        turns=[
            TurnSeen(
                session="s", turn_id=f"t{n}", index=n, base_revision=n - 1, fence=fences[n], text=f"answer: {text(n)}"
            )
            for n in numbers
        ],
        history=[message for n in numbers for message in messages(n)],
        sessions=[SessionSeen(session="s", head_revision=3, turn_index=3, fence=7)],
        journal=[
            Recorded(
                session="s",
                turn_id=f"t{n}",
                ordinal=at,
                fence=fences[n] - (n == 2 and at == 1),
                kind=kind,
                key=f"{n}:{at}:{kind}",
            )
            for n in numbers
            for at, kind in ((1, "llm_call"), (2, "tool_attempt"), (3, "llm_call"))
        ],
        counted=[("s", f"{n}:{at}:llm_call") for n in numbers for at in (1, 3)],
        asked={(text(n), call): 1 + (n == 2 and call == 2) for n in numbers for call in (1, 2)},
        ran={(text(n), f"key {n}"): 1 for n in numbers},
        never_ran={text(n): 1 for n in numbers},
    )


def messages(n: int) -> list[Said]:
    empty = Said(session="s", revision=n, ordinal=0, role="assistant", turn_index=n)
    return [
        replace(empty, role="user", text=text(n)),
        replace(empty, ordinal=1, calls=("c1",)),
        replace(empty, ordinal=2, role="event", results=("c1",)),
        replace(empty, ordinal=3, text=f"answer: {text(n)}"),
    ]


def test_a_clean_run_with_a_take_over_has_no_violations() -> None:
    assert check(clean()) == []


def stored_as(state: str, turn_id: str | None) -> Callable[[Evidence], Evidence]:
    """The second input stored otherwise."""

    def change(evidence: Evidence) -> Evidence:
        first, second, third = evidence.stored
        return replace(evidence, stored=[first, replace(second, state=state, turn_id=turn_id), third])

    return change


def without_the_text(evidence: Evidence) -> Evidence:
    return replace(evidence, history=[one for one in evidence.history if one.text != text(2)])


def without_the_row(evidence: Evidence) -> Evidence:
    return replace(evidence, stored=[one for one in evidence.stored if one.key != "k2"])


def without_the_turn(evidence: Evidence) -> Evidence:
    return replace(evidence, turns=[turn for turn in evidence.turns if turn.turn_id != "t2"])


def with_the_text_again(evidence: Evidence) -> Evidence:
    again = Said(session="s", revision=3, ordinal=4, role="user", text=text(1), turn_index=3)
    return replace(evidence, history=[*evidence.history, again])


def with_the_row_again(evidence: Evidence) -> Evidence:
    return replace(evidence, stored=[*evidence.stored, replace(evidence.stored[0], seq=9)])


def with_a_text_of_nobody(evidence: Evidence) -> Evidence:
    stray = Said(session="s", revision=3, ordinal=4, role="user", text="who said that", turn_index=3)
    return replace(evidence, history=[*evidence.history, stray])


def refused(evidence: Evidence) -> Evidence:
    first, second, third = evidence.sent
    return replace(evidence, sent=[first, replace(second, accepted=False), third])


def swapped(evidence: Evidence) -> Evidence:
    other = {text(1): text(2), text(2): text(1)}
    history = [replace(one, text=other.get(one.text, one.text)) for one in evidence.history]
    rows = [
        replace(one, turn_id={"t1": "t2", "t2": "t1"}.get(one.turn_id or "", one.turn_id)) for one in evidence.stored
    ]
    return replace(evidence, history=history, stored=rows)


def stored_in_another_order(evidence: Evidence) -> Evidence:
    seqs = (1, 3, 2)
    return replace(evidence, stored=[replace(one, seq=seq) for one, seq in zip(evidence.stored, seqs, strict=True)])


def with_a_gap_in_the_turns(evidence: Evidence) -> Evidence:
    turns = [replace(turn, index=turn.index + (turn.index == 3)) for turn in evidence.turns]
    return standing_at(turn_index=4)(replace(evidence, turns=turns))


def with_a_gap_in_the_revisions(evidence: Evidence) -> Evidence:
    later = [replace(one, base_revision=one.base_revision + (one.index == 3)) for one in evidence.turns]
    history = [replace(one, revision=one.revision + (one.revision == 3)) for one in evidence.history]
    return standing_at(head_revision=4)(replace(evidence, turns=later, history=history))


def with_half_a_commit(evidence: Evidence) -> Evidence:
    """The answer of the second turn came with the third."""
    answer = f"answer: {text(2)}"
    history = [replace(one, revision=3) if one.text == answer else one for one in evidence.history]
    return replace(evidence, history=history)


def without_the_result(evidence: Evidence) -> Evidence:
    return replace(evidence, history=[one for one in evidence.history if not (one.results and one.revision == 2)])


def with_another_answer(evidence: Evidence) -> Evidence:
    return replace(evidence, turns=[replace(turn, text="answer: something else") for turn in evidence.turns])


def failed(evidence: Evidence) -> Evidence:
    return replace(evidence, turns=[replace(turn, outcome="runtime_error") for turn in evidence.turns])


def asked_once_more(evidence: Evidence) -> Evidence:
    """A recorded call is asked again in a turn that was opened once."""
    return replace(evidence, asked={**evidence.asked, (text(1), 1): 2})


def asked_once_too_often(evidence: Evidence) -> Evidence:
    """The turn that was opened twice had both of its calls asked twice: one of them was recorded."""
    return replace(evidence, asked={**evidence.asked, (text(2), 1): 2})


def ran_again(evidence: Evidence) -> Evidence:
    return replace(evidence, ran={**evidence.ran, (text(1), "key 1"): 2})


def charged_again(evidence: Evidence) -> Evidence:
    return replace(evidence, never_ran={**evidence.never_ran, text(2): 2})


def recorded_under(ordinal: int, fence: int) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        journal = [
            replace(row, fence=fence) if (row.turn_id, row.ordinal) == ("t2", ordinal) else row
            for row in evidence.journal
        ]
        return replace(evidence, journal=journal)

    return change


def dead(evidence: Evidence) -> Evidence:
    """Answered, and in a dead letter too."""
    first, *others = evidence.stored
    return replace(evidence, stored=[replace(first, dead="attempts_exhausted"), *others])


def stored_by_nobody(evidence: Evidence) -> Evidence:
    return replace(evidence, stored=[*evidence.stored, Stored(session="s", key="k9", seq=9, state="dead")])


def told(*, cancelled: bool) -> Callable[[Evidence], Evidence]:
    """The sender has cancelled its second input and was told this, which is not what the input came to."""

    def change(evidence: Evidence) -> Evidence:
        first, second, third = evidence.sent
        asked = replace(second, cancel_asked=True, told_cancelled=cancelled)
        evidence = replace(evidence, sent=[first, asked, third])
        return evidence if cancelled else stored_as("cancelled", None)(evidence)

    return change


def ended_as_cancelled(evidence: Evidence) -> Evidence:
    first, second, third = evidence.turns
    return replace(evidence, turns=[first, replace(second, outcome="cancelled", text=""), third])


def still_running(evidence: Evidence) -> Evidence:
    return replace(evidence, running=[("s", "t4")])


def of_no_input(outcome: str) -> Callable[[Evidence], Evidence]:
    """One more turn, which nobody has sent anything for; it says nothing."""

    def change(evidence: Evidence) -> Evidence:
        more = TurnSeen(session="s", turn_id="t4", index=4, base_revision=3, fence=8, outcome=outcome)
        seen = SessionSeen(session="s", head_revision=4, turn_index=4, fence=9)
        return replace(evidence, turns=[*evidence.turns, more], sessions=[seen])

    return change


def with_a_journal_of_no_turn(evidence: Evidence) -> Evidence:
    stray = replace(evidence.journal[1], turn_id="t9")
    return replace(evidence, journal=[*evidence.journal, stray])


def without_the_answer(evidence: Evidence) -> Evidence:
    return replace(evidence, history=[one for one in evidence.history if one.text != f"answer: {text(3)}"])


def with_another_answer_in_the_history(evidence: Evidence) -> Evidence:
    other = {f"answer: {text(2)}": "answer: something else"}
    return replace(evidence, history=[replace(one, text=other.get(one.text, one.text)) for one in evidence.history])


def with_the_answer_again(evidence: Evidence) -> Evidence:
    again = [replace(one, ordinal=4) for one in evidence.history if one.text == f"answer: {text(2)}"]
    return replace(evidence, history=[*evidence.history, *again])


def with_the_result_first(evidence: Evidence) -> Evidence:
    places = {1: 2, 2: 1}
    history = [replace(one, ordinal=places.get(one.ordinal, one.ordinal)) for one in evidence.history]
    return replace(evidence, history=sorted(history, key=lambda one: (one.revision, one.ordinal)))


def standing_at(head_revision: int = 3, turn_index: int = 3, fence: int = 7) -> Callable[[Evidence], Evidence]:
    seen = SessionSeen(session="s", head_revision=head_revision, turn_index=turn_index, fence=fence)
    return lambda evidence: replace(evidence, sessions=[seen])


def without_the_session(evidence: Evidence) -> Evidence:
    return replace(evidence, sessions=[])


def with_a_session_of_no_turns(evidence: Evidence) -> Evidence:
    raised = SessionSeen(session="x", head_revision=0, turn_index=0, fence=2)
    return replace(evidence, sessions=[*evidence.sessions, raised])


def counted_not_at_all(evidence: Evidence) -> Evidence:
    return replace(evidence, counted=evidence.counted[1:])


def counted_again(evidence: Evidence) -> Evidence:
    return replace(evidence, counted=[*evidence.counted, evidence.counted[0]])


def counted_and_not_recorded(evidence: Evidence) -> Evidence:
    return replace(evidence, counted=[*evidence.counted, ("s", "3:5:llm_call")])


def seen_by_the_witness(evidence: Evidence) -> Evidence:
    write = StaleWrite(session="s", turn_id="t2", what="2:3:llm_call written under the fence 3 when it was 4")
    return replace(evidence, stale=[write])


@pytest.mark.parametrize(
    ("break_it", "wrong"),
    [
        (stored_as("queued", None), Wrong.LOST),
        (stored_as("dead", "t2"), Wrong.LOST),
        (stored_as("cancelled", None), Wrong.LOST),
        (without_the_text, Wrong.LOST),
        (without_the_row, Wrong.LOST),
        (without_the_turn, Wrong.LOST),
        (failed, Wrong.LOST),
        (dead, Wrong.LOST),
        (told(cancelled=False), Wrong.LOST),
        (ended_as_cancelled, Wrong.LOST),
        (still_running, Wrong.LOST),
        (with_the_text_again, Wrong.TWICE),
        (with_the_row_again, Wrong.TWICE),
        (with_the_answer_again, Wrong.TWICE),
        (with_a_text_of_nobody, Wrong.GHOST),
        (refused, Wrong.GHOST),
        (stored_as("cancelled", None), Wrong.GHOST),
        (stored_by_nobody, Wrong.GHOST),
        (told(cancelled=True), Wrong.GHOST),
        (of_no_input("finished"), Wrong.GHOST),
        (of_no_input("cancelled"), Wrong.GHOST),
        (with_a_journal_of_no_turn, Wrong.GHOST),
        (swapped, Wrong.OUT_OF_ORDER),
        (stored_in_another_order, Wrong.OUT_OF_ORDER),
        (with_a_gap_in_the_turns, Wrong.GAP),
        (with_a_gap_in_the_revisions, Wrong.GAP),
        (with_half_a_commit, Wrong.GAP),
        (stored_as("committed", "t3"), Wrong.GAP),
        (standing_at(head_revision=4), Wrong.GAP),
        (standing_at(turn_index=2), Wrong.GAP),
        (standing_at(fence=8), Wrong.GAP),
        (standing_at(fence=6), Wrong.GAP),
        (without_the_session, Wrong.GAP),
        (with_a_session_of_no_turns, Wrong.GAP),
        (without_the_result, Wrong.UNANSWERED_CALL),
        (with_the_result_first, Wrong.UNANSWERED_CALL),
        (with_another_answer, Wrong.WRONG_ANSWER),
        (without_the_answer, Wrong.WRONG_ANSWER),
        (with_another_answer_in_the_history, Wrong.WRONG_ANSWER),
        (asked_once_more, Wrong.PAID_TWICE),
        (asked_once_too_often, Wrong.PAID_TWICE),
        (ran_again, Wrong.PAID_TWICE),
        (charged_again, Wrong.NEVER_TWICE),
        (recorded_under(3, 3), Wrong.STALE_WRITE),
        (recorded_under(3, 2), Wrong.STALE_WRITE),
        (recorded_under(1, 5), Wrong.STALE_WRITE),
        (recorded_under(1, 1), Wrong.STALE_WRITE),
        (seen_by_the_witness, Wrong.STALE_WRITE),
        (counted_not_at_all, Wrong.MISCOUNTED),
        (counted_again, Wrong.MISCOUNTED),
        (counted_and_not_recorded, Wrong.MISCOUNTED),
    ],
)
def test_the_checker_finds_what_is_wrong(break_it: Callable[[Evidence], Evidence], wrong: Wrong) -> None:
    assert wrong in {violation.wrong for violation in check(break_it(clean()))}


def test_a_cancel_that_was_answered_truly_is_no_violation() -> None:
    evidence = clean()
    first, second, third = evidence.sent
    taken = replace(second, cancel_asked=True, told_cancelled=False)
    assert check(replace(evidence, sent=[first, taken, third])) == []
    cancelled = Sent(session="s", key="k4", text=text(4), cancel_asked=True, told_cancelled=True)
    row = Stored(session="s", key="k4", seq=4, state="cancelled")
    assert check(replace(evidence, sent=[*evidence.sent, cancelled], stored=[*evidence.stored, row])) == []


def test_a_turn_may_be_cancelled_by_what_the_next_one_takes_or_its_sender_takes_back() -> None:
    evidence = ended_as_cancelled(clean())
    first, second, third = evidence.sent
    urgent = replace(third, when="interrupt")
    assert check(replace(evidence, sent=[first, second, urgent])) == []
    assert check(replace(evidence, sent=[replace(first, when="interrupt"), second, third]))
    back = Sent(session="s", key="k4", text=text(4), when="interrupt", cancel_asked=True)
    row = Stored(session="s", key="k4", seq=4, state="cancelled")
    assert check(replace(evidence, sent=[*evidence.sent, back], stored=[*evidence.stored, row])) == []


def test_what_waited_longer_or_is_urgent_may_be_taken_out_of_order() -> None:
    evidence = swapped(clean())
    first, second, third = evidence.sent

    def wrongs(sent: list[Sent]) -> list[Violation]:
        return [one for one in check(replace(evidence, sent=sent)) if one.wrong is Wrong.OUT_OF_ORDER]

    assert wrongs([first, second, third])
    assert not wrongs([replace(first, delayed=True), second, third])
    assert not wrongs([first, replace(second, when="interrupt"), third])
    assert wrongs([replace(first, when="interrupt"), replace(second, when="interrupt"), third])
    assert wrongs([first, replace(second, delayed=True), third])


def with_a_switch(evidence: Evidence) -> Evidence:
    """The second turn ends in a switch, and the third is its task's."""
    first, second, third = evidence.turns
    one, two, three = evidence.sent
    return replace(
        evidence,
        turns=[first, replace(second, outcome="agent_frame_switch", text=""), third],
        sent=[one, two, replace(three, follows="t2")],
    )


def test_a_switch_is_followed_by_its_task() -> None:
    evidence = with_a_switch(clean())
    assert check(evidence) == []
    assert Wrong.TORN_RUN in {one.wrong for one in check(without_the_follow_up(evidence))}
    strayed = [replace(sent, follows=None) for sent in evidence.sent]
    assert Wrong.TORN_RUN in {one.wrong for one in check(replace(evidence, sent=strayed))}


def shared(first: Sent, second: Sent) -> Evidence:
    """Two inputs in the first turn."""
    evidence = clean()
    one, two, three = evidence.stored
    history = [replace(said, revision=1) if said.text == text(2) else said for said in evidence.history]
    return replace(
        evidence,
        sent=[first, second, evidence.sent[2]],
        stored=[one, replace(two, turn_id="t1"), three],
        history=history,
    )


@pytest.mark.parametrize(
    ("first", "second", "may"),
    [
        ("queue", "steer", True),
        ("steer", "steer", True),
        ("merge a", "merge a", True),
        ("merge a", "steer", True),
        ("queue", "queue", False),
        ("queue", "interrupt", False),
        ("merge a", "merge b", False),
        ("queue", "merge a", False),
        ("steer", "steer in another context", False),
    ],
)
def test_only_what_may_share_a_turn_does(first: str, second: str, may: bool) -> None:
    def sent(number: int, how: str) -> Sent:
        when, _, key = how.partition(" ")
        return Sent(
            session="s",
            key=f"k{number}",
            text=text(number),
            when=when,
            merge_key=key if when == "merge" else None,
            context=1 if "context" in key else None,
        )

    wrongs = {one.wrong for one in check(shared(sent(1, first), sent(2, second)))}
    assert (Wrong.WRONG_COMPANY not in wrongs) is may


def test_a_command_needs_its_end_and_no_answer() -> None:
    evidence = clean()
    first, second, third = evidence.sent
    answers = [replace(turn, text="" if turn.turn_id == "t2" else turn.text) for turn in evidence.turns]
    said = [one for one in evidence.history if one.revision != 2]
    applied = replace(
        evidence, sent=[first, replace(second, command=True, text=""), third], turns=answers, history=said, asked={}
    )
    assert check(applied) == []
    assert Wrong.LOST in {one.wrong for one in check(stored_as("queued", None)(applied))}
    assert Wrong.LOST in {one.wrong for one in check(replace(applied, sent=[first, replace(second, text="x"), third]))}


def without_the_follow_up(evidence: Evidence) -> Evidence:
    return replace(evidence, turns=evidence.turns[:2])


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(101)], 0.99) == 99.0
