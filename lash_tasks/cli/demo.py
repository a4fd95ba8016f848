"""`lash-tasks demo`: the main job on a machine with nothing but Python, with a worker killed in the middle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from lash_tasks.cli.output import JsonFlag, command


def demo(as_json: JsonFlag = False) -> None:
    """Run a conversation, kill its worker in the middle of a turn, and show what that changes: nothing but time."""
    with command(as_json) as output, tempfile.TemporaryDirectory(prefix="lash-demo-") as name:
        from lash_tasks.cli.demo_scene import Scene

        held = Scene(output, Path(name)).play()
        output.document({"ok": all(held.values()), "proved": held}, sentence=_verdict(held))
        if not all(held.values()):
            raise typer.Exit(1)


def _verdict(held: dict[str, bool]) -> str:
    lines = [f"  {'yes' if true else 'NO '}  {name}" for name, true in held.items()]
    headline = "The demo held:" if all(held.values()) else "The demo did not hold:"
    return "\n".join([headline, *lines])
