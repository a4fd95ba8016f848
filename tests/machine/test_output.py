"""The text that callers see, and what is said about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_tasks.domain.turns import IssueKind, OutputState, TurnIssue
from lash_tasks.machine.assembly import classify, is_traceback_only, safe_text
from tests.domain.laws import law

TRACEBACK = (
    "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nNameError: name 'x' is not defined"
)
ISSUE = TurnIssue(IssueKind.TOOL, "tool_failed", "no")


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("Hi.", "Hi."),
        ("  Hi. \n", "Hi."),
        ("a  \n\t\n  b\t\r\nc", "a\n\n  b\nc"),
        ("", ""),
        (" \n\t", ""),
        (TRACEBACK, ""),
        (f"\n{TRACEBACK}  \n", ""),
        ("a\x0cb\u2028c\x85d", "a\x0cb\u2028c\x85d"),
        ("a\x00b", "a\x00b"),
    ],
)
def test_text_is_trimmed_and_a_bare_traceback_is_not_shown(raw: str, safe: str) -> None:
    assert safe_text(raw) == safe


@pytest.mark.parametrize(
    "text",
    [
        TRACEBACK,
        "Traceback (most recent call last)",
        "NameError: name 'x' is not defined",
        "Runtime error: out of memory",
        "  ValueError: bad\n\n  TypeError: worse",
        'File "a.py", line 1\nImportError: no',
        "Runtime error: no\nFile",
        "KeyError: 'a'\nAttributeError: b\nSyntaxError: c\nModuleNotFoundError: d",
    ],
)
def test_tracebacks_and_error_lines_alone_are_a_traceback(text: str) -> None:
    assert is_traceback_only(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hi.",
        "File a report: today",
        "I got this:\nNameError: name 'x' is not defined\nand stopped",
        f"{TRACEBACK}\nThe variable is missing.",
        "The NameError: was mine",
        "OSError: disk full",
        "ValueErrors: many",
    ],
)
def test_prose_and_other_errors_are_none(text: str) -> None:
    assert not is_traceback_only(text)


@pytest.mark.parametrize(
    ("raw", "issues", "state"),
    [
        ("Hi.", (), OutputState.USABLE),
        ("Hi.", (ISSUE,), OutputState.RECOVERED_FROM_ERROR),
        ("", (), OutputState.EMPTY_OUTPUT),
        (" \n", (), OutputState.EMPTY_OUTPUT),
        ("", (ISSUE,), OutputState.EMPTY_OUTPUT),
        (TRACEBACK, (), OutputState.TRACEBACK_ONLY),
        (TRACEBACK, (ISSUE,), OutputState.TRACEBACK_ONLY),
        (f"{TRACEBACK}\nSorry", (), OutputState.USABLE),
    ],
)
def test_every_output_has_one_state(raw: str, issues: tuple[TurnIssue, ...], state: OutputState) -> None:
    assert classify(raw, safe_text(raw), issues) is state


lines = st.one_of(
    st.sampled_from(
        ["", " ", "Hi. ", "  indented", *TRACEBACK.split("\n"), "Runtime error: x", "note: y", "\r", "\x0c", "\u2028"]
    ),
    st.text(max_size=10),
)


@law
@given(st.lists(lines, max_size=8).map("\n".join))
def test_safe_text_is_trimmed_once_and_for_all(raw: str) -> None:
    safe = safe_text(raw)

    assert safe_text(safe) == safe
    assert safe == safe.strip()
    assert all(line == line.rstrip() for line in safe.split("\n"))
    assert not is_traceback_only(safe)
    assert safe == "" or "".join(safe.split()) == "".join(raw.split())
