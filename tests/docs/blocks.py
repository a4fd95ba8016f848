"""The code blocks of README and docs, with what the page says about each.

A block is run, or checked, by its language. The line before it may say otherwise, where a reader does not see it:
`<!-- file: support.py -->` makes it a file beside the others, `<!-- not run: why -->` leaves it alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "benchmarks").glob("*.md")),
]

_FENCE = re.compile(r"^ *```(\w*) *$")
_REMARK = re.compile(r"^ *<!-- (file|not run): (.+) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is that of its first line of code, from 1."""

    page: str
    line: int
    language: str
    code: str
    file: str | None = None
    not_run: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    return list(_blocks(name_of(page), page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    remarks: dict[str, str] = {}
    at = 0
    while at < len(lines):
        if remark := _REMARK.match(lines[at]):
            remarks = {remark[1]: remark[2]}
        elif fence := _FENCE.match(lines[at]):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            indent = len(lines[at]) - len(lines[at].lstrip())
            code = "\n".join(line[indent:] for line in lines[at + 1 : end]) + "\n"
            yield Block(page, at + 2, fence[1], code, remarks.get("file"), remarks.get("not run"))
            remarks = {}
            at = end
        elif lines[at].strip():
            assert not lines[at].startswith("```"), f"{page}:{at + 1}: a fence with more than a language"
            remarks = {}
        at += 1
