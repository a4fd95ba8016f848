"""Every must-show case is shown by a test. The marks are read from the sources, so a part of the suite is enough."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases import CASES, NOT_YET

TESTS = Path(__file__).parent


def marks(path: Path) -> Iterator[tuple[str, str]]:
    """The case and the place of every `pytest.mark.shows(...)` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.shows"):
            continue
        for argument in node.args:
            assert isinstance(argument, ast.Constant), f"{path.name}:{node.lineno}: name the case in a literal"
            yield str(argument.value), f"{path.relative_to(TESTS)}:{node.lineno}"


@pytest.fixture(scope="module")
def shown() -> dict[str, list[str]]:
    """The places that show each case."""
    found = defaultdict(list)
    for path in TESTS.rglob("*.py"):
        for case, place in marks(path):
            found[case].append(place)
    return found


def test_every_case_is_shown_by_a_test_or_stands_in_not_yet(shown: dict[str, list[str]]) -> None:
    missing = [case for case in CASES if case not in shown and case not in NOT_YET]
    assert not missing, f"no test shows {missing}: mark one with pytest.mark.shows"


def test_every_mark_names_a_known_case(shown: dict[str, list[str]]) -> None:
    unknown = {case: places for case, places in shown.items() if case not in CASES}
    assert not unknown


def test_not_yet_lists_no_case_that_a_test_shows(shown: dict[str, list[str]]) -> None:
    done = {case: shown[case] for case in NOT_YET if case in shown}
    assert not done, f"shown by now, so take them out of NOT_YET: {done}"


def test_not_yet_lists_known_cases_only() -> None:
    assert set(CASES) >= NOT_YET
