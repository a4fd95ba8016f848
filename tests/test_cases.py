"""Every must-show case is shown by a test, and every error code is brought about by one.

The marks are read from the sources, so that a part of the suite is enough.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_tasks.errors import ErrorCode
from tests.cases import CASES, HERE, NOT_YET
from tests.codes import CODES_NOT_YET

TESTS = Path(__file__).parent


def marks(path: Path, mark: str) -> Iterator[tuple[str, str]]:
    """The argument and the place of every `pytest.mark.<mark>(...)` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{mark}"):
            continue
        for argument in node.args:
            assert isinstance(argument, ast.Constant), f"{path.name}:{node.lineno}: name it in a literal"
            yield str(argument.value), f"{path.relative_to(TESTS)}:{node.lineno}"


def marked(mark: str) -> dict[str, list[str]]:
    """The places of each argument of a mark."""
    found = defaultdict(list)
    for path in TESTS.rglob("*.py"):
        for argument, place in marks(path, mark):
            found[argument].append(place)
    return found


@pytest.fixture(scope="module")
def shown() -> dict[str, list[str]]:
    """The places that show each case."""
    return marked("shows")


def test_every_case_is_shown_by_a_test_or_stands_in_not_yet(shown: dict[str, list[str]]) -> None:
    missing = [case for case in CASES if case not in shown and case not in NOT_YET]
    assert not missing, f"no test shows {missing}: mark one with pytest.mark.shows"


def test_every_mark_names_a_known_case(shown: dict[str, list[str]]) -> None:
    unknown = {case: places for case, places in shown.items() if case not in CASES}
    assert not unknown


def test_not_yet_lists_no_case_that_a_test_shows(shown: dict[str, list[str]]) -> None:
    done = {case: shown[case] for case in NOT_YET if case in shown}
    assert not done, f"shown by now, so take them out of NOT_YET: {done}"


def test_only_known_cases_are_spoken_of() -> None:
    assert set(CASES) >= set(NOT_YET)
    assert set(CASES) >= set(HERE)


def test_every_error_code_is_brought_about_by_a_test() -> None:
    codes, brought = {code.value for code in ErrorCode}, set(marked("raises_code"))
    assert brought <= codes, f"no such codes: {brought - codes}"
    assert codes >= CODES_NOT_YET
    assert not (codes - brought - CODES_NOT_YET), "mark a test with pytest.mark.raises_code"
    assert not (brought & CODES_NOT_YET), "brought about by now, so take it out of CODES_NOT_YET"
