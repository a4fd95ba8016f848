"""Runs the Python blocks of a page as one program; tracebacks name the page and its line. `run_page.py blocks.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path.cwd()))
    for file in sorted(Path.cwd().glob("*.py")):
        if not file.name.startswith(("test_", "conftest")):
            __import__(file.stem)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        code = "\n" * (block["line"] - 1) + block["code"]
        exec(compile(code, block["page"], "exec", dont_inherit=True), namespace)


if __name__ == "__main__":
    main()
