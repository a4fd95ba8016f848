"""docs/settings.md and docs/errors.md say what the code says."""

from __future__ import annotations

import runpy

import pytest

from lash_tasks.errors import ErrorCode
from lash_tasks.settings import VARIABLES, Settings
from tests.docs.blocks import ROOT

GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize("page", ["settings.md", "errors.md"])
def test_the_page_is_what_the_code_generates(page: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == GENERATOR["pages"]()[page], "run: python docs/generate.py"


def test_every_setting_and_every_code_is_there() -> None:
    assert set(VARIABLES) == set(Settings.model_fields)
    pages = GENERATOR["pages"]()
    assert all(f"| `{variable}` |" in pages["settings.md"] for variable in VARIABLES.values())
    assert all(f"| `{code}` |" in pages["errors.md"] for code in ErrorCode)
