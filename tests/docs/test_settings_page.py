"""docs/settings.md names every variable that the settings read, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from lash_tasks.settings import VARIABLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_page_names_exactly_the_variables_that_are_read() -> None:
    named = re.findall(r"`((?:LASH|OPENAI|ANTHROPIC)_[A-Z_]+)`", PAGE.read_text(encoding="utf-8"))
    assert set(named) == set(VARIABLES.values())
