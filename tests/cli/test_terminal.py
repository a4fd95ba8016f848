"""A terminal gets frames, colours and a spinner; a pipe gets the same words and whole lines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress

from lash_tasks import Lash
from tests.cli.calling import SCRIPT, environment, run
from tests.cli.test_inspection import answer
from tests.embedded.application import AGENT
from tests.scene import SESSION, Scene

ESCAPE = "\x1b["
COLUMNS = 100


def on_terminal(*arguments: str, **variables: str) -> str:
    """What the command shows on a terminal of its own, escape sequences and all."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    clean = {name: value for name, value in environment(**variables).items() if name not in ("NO_COLOR", "COLUMNS")}
    command = subprocess.Popen(
        [str(SCRIPT), *arguments],
        env={**clean, "TERM": "xterm-256color"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody has it open any more
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    command.wait(20)
    return shown.decode()


def plain(shown: str) -> str:
    """Without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def test_a_table_is_framed_on_a_terminal_and_bare_in_a_pipe(scene: Scene, sqlite_url: str) -> None:
    answer(scene, "one", "two")
    listing = ("turns", "list", "--session", SESSION)
    shown = on_terminal(*listing, LASH_DATABASE_URL=sqlite_url)
    piped = run(*listing, LASH_DATABASE_URL=sqlite_url).stdout

    assert ESCAPE in shown
    assert "─" in shown
    assert ESCAPE not in piped
    assert "─" not in piped
    assert [line.split()[0] for line in piped.splitlines()] == ["turn", "1", "2"]


def test_a_pipe_gets_whole_ids_however_long(scene: Scene, sqlite_url: str) -> None:
    name = "session-" + "x" * 190
    scene.send("hello", session_id=name)
    listing = run("queue", "list", LASH_DATABASE_URL=sqlite_url).stdout

    assert name in listing
    assert len(listing.splitlines()) == 2


def test_a_terminal_folds_long_ids_rather_than_cut_them(scene: Scene, sqlite_url: str) -> None:
    name = "s" * 200
    scene.send("hello", session_id=name)
    shown = plain(on_terminal("queue", "list", LASH_DATABASE_URL=sqlite_url))

    assert "…" not in shown
    assert len(re.findall(r"\bs+\b", shown)) > 1
    assert sum(len(piece) for piece in re.findall(r"\bs+\b", shown)) == len(name)
    assert max(len(line) for line in shown.splitlines()) <= COLUMNS


def test_a_wait_is_seen_on_a_terminal_and_leaves_only_the_answer(stack: Lash, sqlite_url: str) -> None:
    send = ("send", "s", "well [slow 1]", "--agent", AGENT, "--wait")
    shown = on_terminal(*send, LASH_DATABASE_URL=sqlite_url)

    assert "waiting for the turn" in shown
    assert "You said: well [slow 1]" in plain(shown), "brackets in a text are no markup"
    assert "waiting" not in run(*send, LASH_DATABASE_URL=sqlite_url).stderr


def test_json_is_the_same_on_a_terminal(scene: Scene, sqlite_url: str) -> None:
    answer(scene, "one")
    listing = ("turns", "list", "--session", SESSION, "--json")

    shown = on_terminal(*listing, LASH_DATABASE_URL=sqlite_url)
    assert shown.replace("\r\n", "\n") == run(*listing, LASH_DATABASE_URL=sqlite_url).stdout


def test_an_error_stands_out_on_a_terminal(scene: Scene, sqlite_url: str) -> None:
    shown = on_terminal("sessions", "show", "nobody", LASH_DATABASE_URL=sqlite_url)

    assert plain(shown).strip() == "error: there is no session 'nobody'"
    assert ESCAPE in shown
