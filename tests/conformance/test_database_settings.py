"""Settings with which no database can be opened: one sentence names the variable, where a traceback was printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lash_tasks.errors import ConfigurationError
from lash_tasks.stores.sql.engine import Database

NOBODY = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"x": 1}, r"Invalid argument\(s\) 'x'"),
        ({"pool_size": "many"}, "unsupported operand"),
        ({"poolclass": "none"}, "'str' object"),
        ({"connect_args": 5}, "'int' object"),
    ],
)
def test_options_that_no_engine_takes_are_refused(
    tmp_path: Path, backend: str, options: dict[str, Any], problem: str
) -> None:
    url = f"sqlite:///{tmp_path}/lash.db" if backend == "sqlite" else NOBODY
    with pytest.raises(ConfigurationError, match=f"^LASH_DATABASE_OPTIONS: .*{problem}"):
        Database.open(url, options=options)


@pytest.mark.parametrize("url", ["sqlite://", NOBODY])
def test_options_that_no_driver_takes_are_refused(url: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"LASH_DATABASE_OPTIONS: .*coloured"),
        Database.open(url, options={"connect_args": {"coloured": True}}).reading(),
    ):
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("print('not a database')\n" * 100)
    with pytest.raises(ConfigurationError, match="LASH_DATABASE_URL names a file that is no SQLite database"):
        Database.open(f"sqlite:///{file}")
    assert file.read_text().startswith("print")
