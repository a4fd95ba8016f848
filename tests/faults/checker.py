"""The laws of a run under faults: what is wrong with the evidence that it has left behind.

Pure: `check` takes what was sent, what became of it, the turns, the history, the journal's fences and what the
outside counted, and returns every violation. Nothing here knows which faults there were; only the openings of a turn
say how often it may have been in the middle of something when its worker was lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from tests.faults.evidence import (
    SWITCHED,
    Evidence,
    Sent,
    by,
    openings_of_turns,
    texts_of_turns,
    with_the_fence_before,
)


class Wrong(StrEnum):
    LOST = "lost"
    """An accepted input without its one end, a turn without one, or an end that nobody asked for."""
    TWICE = "twice"
    """A text or an answer in the history, or an input in the queue, more often than once."""
    GHOST = "ghost"
    """Something that is there and should not be: what was cancelled, refused or never sent, or is of no turn."""
    OUT_OF_ORDER = "out_of_order"
    GAP = "gap"
    """Turn indexes, revisions or fences that do not count up, or a turn's messages in another's commit."""
    UNANSWERED_CALL = "unanswered_call"
    """A tool call that no result follows, or a result that no call precedes."""
    WRONG_ANSWER = "wrong_answer"
    """Also one that its turn shows and the history does not."""
    PAID_TWICE = "paid_twice"
    """More attempts at a model call or tool than openings of its turn account for."""
    NEVER_TWICE = "never_twice"
    """A `never` tool that ran again."""
    TORN_RUN = "torn_run"
    """A switch of frames that another turn than its task's followed."""
    WRONG_COMPANY = "wrong_company"
    """Inputs in one turn that may not share one."""
    STALE_WRITE = "stale_write"
    """Something written under another fence than the one that the turn had, or by another than its holder."""
    MISCOUNTED = "miscounted"
    """A recorded model call whose usage is not counted, or one that is counted and not recorded."""


@dataclass(frozen=True, slots=True)
class Violation:
    wrong: Wrong
    session: str
    detail: str

    def __str__(self) -> str:
        return f"{self.wrong} in {self.session}: {self.detail}"


def check(evidence: Evidence) -> list[Violation]:
    """Every violation, in no order that matters."""
    return [found for law in LAWS for found in law(evidence)]


# ---------------------------------------------------------------- laws


def every_input_has_one_end(evidence: Evidence) -> Iterator[Violation]:
    stored = by(evidence.stored, lambda one: (one.session, one.key))
    turns = {(turn.session, turn.turn_id) for turn in evidence.turns}
    for sent in evidence.sent:
        rows = stored.get((sent.session, sent.key), [])
        if not sent.accepted:
            if rows:
                yield Violation(Wrong.GHOST, sent.session, f"{sent.key} was refused and is stored")
            continue
        if len(rows) != 1:
            wrong = Wrong.TWICE if rows else Wrong.LOST
            yield Violation(wrong, sent.session, f"{sent.key} is stored {len(rows)} times")
            continue
        (row,) = rows
        cancelled = row.state == "cancelled"
        ended = (row.session, row.turn_id) in turns if row.state == "committed" else cancelled
        if not ended or row.dead is not None or (cancelled and not sent.cancel_asked):
            why = "" if row.dead is None else f", dead of {row.dead}"
            yield Violation(Wrong.LOST, sent.session, f"{sent.key} ended as {row.state}, turn {row.turn_id}{why}")
        elif sent.told_cancelled not in (None, cancelled):
            wrong, told = (Wrong.GHOST, "was") if sent.told_cancelled else (Wrong.LOST, "was not")
            yield Violation(wrong, sent.session, f"{sent.key} ended as {row.state}, its sender {told} told: cancelled")
    for session, turn_id in evidence.running:
        yield Violation(Wrong.LOST, session, f"turn {turn_id} has no end")
    known = {(sent.session, sent.key) for sent in evidence.sent}
    for session, key in stored.keys() - known:
        yield Violation(Wrong.GHOST, session, f"{key} is stored and nobody sent it")


def every_cancelled_turn_was_interrupted(evidence: Evidence) -> Iterator[Violation]:
    """By an input that the next turn takes, for it goes before all others, unless its sender has taken it back."""
    urgent = {(sent.session, sent.key) for sent in evidence.sent if sent.when == "interrupt"}
    interrupts = [row for row in evidence.stored if (row.session, row.key) in urgent]
    takers = {(row.session, row.turn_id) for row in interrupts if row.state == "committed"}
    taken_back = Counter(row.session for row in interrupts if row.state == "cancelled")
    turns = {(turn.session, turn.index): turn for turn in evidence.turns}
    for turn in evidence.turns:
        if turn.outcome != "cancelled":
            continue
        after = turns.get((turn.session, turn.index + 1))
        if after is not None and (after.session, after.turn_id) in takers:
            continue
        taken_back[turn.session] -= 1
        if taken_back[turn.session] < 0:
            yield Violation(Wrong.LOST, turn.session, f"turn {turn.index} was cancelled and nobody had interrupted it")


def every_turn_and_its_journal_are_of_an_input(evidence: Evidence) -> Iterator[Violation]:
    named = {(row.session, row.turn_id) for row in evidence.stored if row.state == "committed"}
    turns = {(turn.session, turn.turn_id) for turn in evidence.turns}
    for session, turn_id in turns - named:
        yield Violation(Wrong.GHOST, session, f"turn {turn_id} is of no input")
    for (session, turn_id), rows in by(evidence.journal, lambda row: (row.session, row.turn_id)).items():
        if (session, turn_id) not in turns.union(evidence.running):
            yield Violation(Wrong.GHOST, session, f"{len(rows)} rows of a journal are of {turn_id}, which is no turn")


def every_text_is_said_once(evidence: Evidence) -> Iterator[Violation]:
    said = Counter((one.session, one.text) for one in evidence.history if one.role == "user")
    stored = {(one.session, one.key): one for one in evidence.stored}
    known = set()
    for sent in evidence.sent:
        if not sent.text:
            continue
        known.add((sent.session, sent.text))
        row = stored.get((sent.session, sent.key))
        wanted = int(sent.accepted and row is not None and row.state == "committed")
        times = said[(sent.session, sent.text)]
        if times > 1:
            yield Violation(Wrong.TWICE, sent.session, f"{sent.text!r} is in the history {times} times")
        elif times < wanted:
            yield Violation(Wrong.LOST, sent.session, f"{sent.text!r} was answered and is not in the history")
        elif times > wanted:
            yield Violation(Wrong.GHOST, sent.session, f"{sent.text!r} is in the history, its input was not answered")
    for session, text in said.keys() - known:
        yield Violation(Wrong.GHOST, session, f"{text!r} is in the history and nobody sent it")


def every_text_is_in_the_turn_that_took_it(evidence: Evidence) -> Iterator[Violation]:
    revisions = {(turn.session, turn.turn_id): turn.base_revision + 1 for turn in evidence.turns}
    texts = {(sent.session, sent.key): sent.text for sent in evidence.sent}
    where = {(one.session, one.text): one.revision for one in evidence.history if one.role == "user"}
    for row in evidence.stored:
        text = texts.get((row.session, row.key))
        if row.state != "committed" or not text or (row.session, text) not in where:
            continue  # what is missing there is another law's
        if where[(row.session, text)] != revisions.get((row.session, row.turn_id or "")):
            yield Violation(Wrong.GAP, row.session, f"{text!r} is not in the commit of its turn {row.turn_id}")


def inputs_are_taken_in_order(evidence: Evidence) -> Iterator[Violation]:
    """In the order accepted, but for what the documented rules let an input overtake."""
    sequence = {(one.session, one.key): one.seq for one in evidence.stored}
    places = {(one.session, one.text): (one.revision, one.ordinal) for one in evidence.history if one.role == "user"}
    for session, inputs in by(evidence.sent, lambda one: one.session).items():
        known = [
            (sequence[(session, sent.key)], places[(session, sent.text)], sent)
            for sent in inputs
            if (session, sent.key) in sequence and (session, sent.text) in places
        ]
        from_outside = [one for one in known if one[2].follows is None]
        for (seq, _, before), (later_seq, _, after) in pairwise(from_outside):
            if later_seq < seq:
                detail = f"{after.key} was sent after {before.key} and stands before it in the queue"
                yield Violation(Wrong.OUT_OF_ORDER, session, detail)
        by_place = sorted(known, key=lambda one: one[1])
        for at, (seq, _, taken) in enumerate(by_place):
            for earlier_seq, _, overtaken in by_place[at + 1 :]:
                if earlier_seq < seq and not may_overtake(taken, overtaken):
                    detail = f"{taken.text!r} ({taken.when}) came before {overtaken.text!r} ({overtaken.when})"
                    yield Violation(Wrong.OUT_OF_ORDER, session, detail)


def may_overtake(later: Sent, earlier: Sent) -> bool:
    """Whether an input may be taken before one that was accepted before it."""
    if earlier.delayed or earlier.quiet:
        return True  # it was not ready yet
    if later.follows is not None:
        return True  # it is part of a run that had begun
    return later.when == "interrupt" and earlier.when != "interrupt"


def only_what_may_share_a_turn_does(evidence: Evidence) -> Iterator[Violation]:
    """One context and one merge key; steers beside whatever they have joined; of everything else one."""
    sent = {(one.session, one.key): one for one in evidence.sent}
    takers = by((row for row in evidence.stored if row.turn_id), lambda row: (row.session, row.turn_id))
    for (session, turn_id), rows in takers.items():
        inputs = [sent[(session, row.key)] for row in rows if (session, row.key) in sent]
        alone = [one for one in inputs if one.when not in ("steer", "merge")]
        keys = {one.merge_key for one in inputs if one.when == "merge"}
        if len({one.context for one in inputs if one.follows is None}) > 1 or len(alone) + len(keys) > 1:
            texts = [(one.text, one.when, one.merge_key, one.context) for one in inputs]
            yield Violation(Wrong.WRONG_COMPANY, session, f"turn {turn_id} has {texts}")


def turns_and_revisions_have_no_gaps(evidence: Evidence) -> Iterator[Violation]:
    said = by(evidence.history, lambda one: one.session)
    turns_of = by(evidence.turns, lambda one: one.session)
    for session in said.keys() - turns_of.keys():
        yield Violation(Wrong.GAP, session, "there are messages and no turns")
    for session, unsorted in turns_of.items():
        turns = sorted(unsorted, key=lambda turn: turn.index)
        indexes, bases = [turn.index for turn in turns], [turn.base_revision for turn in turns]
        for name, values in (("turn indexes", indexes), ("revisions", bases)):
            if any(after != before + 1 for before, after in pairwise(values)):
                yield Violation(Wrong.GAP, session, f"{name} are {values}")
        if bases[0] != 0:
            yield Violation(Wrong.GAP, session, f"the first turn stands on revision {bases[0]}")
        index_at = {turn.base_revision + 1: turn.index for turn in turns}
        for one in said.get(session, ()):
            if one.turn_index is not None and index_at.get(one.revision) != one.turn_index:
                detail = f"a message of turn {one.turn_index} is in revision {one.revision}"
                yield Violation(Wrong.GAP, session, detail)
        for revision, messages in by(said.get(session, ()), lambda one: one.revision).items():
            if [one.ordinal for one in messages] != list(
                range(messages[0].ordinal, messages[0].ordinal + len(messages))
            ):
                yield Violation(Wrong.GAP, session, f"ordinals of revision {revision} have a gap")


def every_session_stands_where_its_last_turn_left_it(evidence: Evidence) -> Iterator[Violation]:
    seen = {one.session: one for one in evidence.sessions}
    last = {turn.session: turn for turn in sorted(evidence.turns, key=lambda turn: turn.index)}
    busy = {session for session, _ in evidence.running}
    for session in (seen.keys() | last.keys()) - busy:
        one, turn = seen.get(session), last.get(session)
        stands = None if one is None else (one.head_revision, one.turn_index, one.fence)
        left = (0, 0, 0) if turn is None else (turn.base_revision + 1, turn.index, turn.fence + 1)
        if stands != left:
            detail = f"revision, turn index and fence are {stands}, its turns explain {left}"
            yield Violation(Wrong.GAP, session, detail)


def every_call_has_its_result_behind_it(evidence: Evidence) -> Iterator[Violation]:
    for (session, revision), messages in by(evidence.history, lambda one: (one.session, one.revision)).items():
        waiting: Counter[str] = Counter()
        for one in sorted(messages, key=lambda one: one.ordinal):
            for result in one.results:
                waiting[result] -= 1
                if waiting[result] < 0:
                    detail = f"revision {revision}: the result of {result} is not behind its call"
                    yield Violation(Wrong.UNANSWERED_CALL, session, detail)
            waiting.update(one.calls)
        if lonely := sorted(call for call, times in waiting.items() if times > 0):
            yield Violation(Wrong.UNANSWERED_CALL, session, f"revision {revision}: {lonely} without a result")


def every_finished_turn_answers_its_last_text(evidence: Evidence) -> Iterator[Violation]:
    """In what the turn shows, and in the message that ends its commit."""
    commands = {(sent.session, sent.key) for sent in evidence.sent if sent.command}
    applying = {(row.session, row.turn_id) for row in evidence.stored if (row.session, row.key) in commands}
    said = by(evidence.history, lambda one: (one.session, one.revision))
    for turn, texts in texts_of_turns(evidence):
        if turn.outcome == "finished" and (turn.session, turn.turn_id) not in applying:
            messages = said.get((turn.session, turn.base_revision + 1), [])
            last = max(messages, key=lambda one: one.ordinal, default=None)
            closing = last.text if last is not None and last.role == "assistant" and not last.calls else None
            if not texts or not turn.text == closing == f"answer: {texts[-1]}":
                detail = f"{turn.text!r}, in the history {closing!r}, answers {texts}"
                yield Violation(Wrong.WRONG_ANSWER, turn.session, detail)
        if turn.outcome not in ("finished", "cancelled", SWITCHED):
            yield Violation(Wrong.LOST, turn.session, f"turn {turn.index} ended as {turn.outcome}")


def every_answer_is_said_once(evidence: Evidence) -> Iterator[Violation]:
    answers = [one for one in evidence.history if one.role == "assistant" and one.text.startswith("answer: ")]
    for (session, text), times in Counter((one.session, one.text) for one in answers).items():
        if times > 1:
            yield Violation(Wrong.TWICE, session, f"{text!r} is in the history {times} times")


def every_switch_is_followed_by_its_task(evidence: Evidence) -> Iterator[Violation]:
    turns = {(turn.session, turn.index): turn for turn in evidence.turns}
    texts = {(turn.session, turn.turn_id): said for turn, said in texts_of_turns(evidence)}
    tasks = {(sent.session, sent.follows): sent.text for sent in evidence.sent if sent.follows is not None}
    for turn in evidence.turns:
        if turn.outcome != SWITCHED:
            continue
        after, task = turns.get((turn.session, turn.index + 1)), tasks.get((turn.session, turn.turn_id))
        said = [] if after is None else texts[(after.session, after.turn_id)]
        if task is None or said[:1] != [task]:
            yield Violation(Wrong.TORN_RUN, turn.session, f"turn {turn.index} left {task!r}, then came {said}")


def nothing_is_paid_for_twice(evidence: Evidence) -> Iterator[Violation]:
    """A loss in the middle of a turn may repeat what was in flight, once for each opening after the first."""
    openings = openings_of_turns(evidence)
    kept = Counter((row.session, row.turn_id) for row in evidence.journal if row.kind == "llm_call" and row.done)
    runs: dict[str, list[int]] = defaultdict(list)
    for (text, _), times in evidence.ran.items():
        runs[text].append(times)
    asked: dict[str, list[int]] = defaultdict(list)
    for (text, _), times in evidence.asked.items():
        asked[text].append(times)
    for turn, texts in texts_of_turns(evidence):
        opened = openings[(turn.session, turn.turn_id)]
        calls = [times for text in texts for times in asked[text]]
        # A cancel ends a call that was asked and is not recorded.
        allowed = kept[(turn.session, turn.turn_id)] + opened - 1 + (turn.outcome == "cancelled")
        if sum(calls) > allowed or max(calls, default=0) > opened:
            detail = f"turn {turn.index} asked the model {sum(calls)} times, {allowed} allowed, {opened} openings"
            yield Violation(Wrong.PAID_TWICE, turn.session, detail)
        if max((times for text in texts for times in runs[text]), default=0) > opened:
            yield Violation(Wrong.PAID_TWICE, turn.session, f"a tool of turn {turn.index} ran more than {opened} times")


def no_never_tool_runs_again(evidence: Evidence) -> Iterator[Violation]:
    for text, times in evidence.never_ran.items():
        if times > 1:
            yield Violation(Wrong.NEVER_TWICE, text, f"it ran {times} times")


def every_recorded_model_call_is_counted_once(evidence: Evidence) -> Iterator[Violation]:
    counted = Counter(evidence.counted)
    recorded = Counter((row.session, row.key) for row in evidence.journal if row.kind == "llm_call" and row.done)
    for session, key in sorted(counted.keys() | recorded.keys()):
        was, is_ = recorded[(session, key)], counted[(session, key)]
        if was != is_:
            yield Violation(Wrong.MISCOUNTED, session, f"{key} is recorded {was} times and counted {is_} times")


def nothing_stale_is_written(evidence: Evidence) -> Iterator[Violation]:
    for write in evidence.stale:
        yield Violation(Wrong.STALE_WRITE, write.session, f"turn {write.turn_id}: {write.what}")
    rows = by(evidence.journal, lambda one: (one.session, one.turn_id))
    for turn, before in with_the_fence_before(evidence):
        mine = by(rows.get((turn.session, turn.turn_id), ()), lambda one: one.ordinal)
        high = before
        for ordinal in sorted(mine):
            fences = [row.fence for row in mine[ordinal]]
            if min(fences) < high or min(fences) <= before or max(fences) > turn.fence:
                detail = f"turn {turn.index} has fences {fences} at {ordinal}, before {high}, its own {turn.fence}"
                yield Violation(Wrong.STALE_WRITE, turn.session, detail)
            high = max(high, *fences)


LAWS = (
    every_input_has_one_end,
    every_cancelled_turn_was_interrupted,
    every_turn_and_its_journal_are_of_an_input,
    every_text_is_said_once,
    every_text_is_in_the_turn_that_took_it,
    inputs_are_taken_in_order,
    only_what_may_share_a_turn_does,
    turns_and_revisions_have_no_gaps,
    every_session_stands_where_its_last_turn_left_it,
    every_call_has_its_result_behind_it,
    every_finished_turn_answers_its_last_text,
    every_answer_is_said_once,
    every_switch_is_followed_by_its_task,
    nothing_is_paid_for_twice,
    no_never_tool_runs_again,
    every_recorded_model_call_is_counted_once,
    nothing_stale_is_written,
)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of the values does not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
