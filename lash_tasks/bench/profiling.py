"""Where the workers' time goes: py-spy beside each of them, and which functions it found most often.

Only threads that hold the interpreter's lock are counted, so a share is one of Python's processor time. py-spy needs
time itself: a run that is profiled has figures of its own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lash_tasks.errors import ConfigurationError

RATE = 100
TOP = 30
STOP_SECONDS = 20.0


def require_profiler() -> str:
    """The program; ConfigurationError says how to get it."""
    found = shutil.which("py-spy")
    if found is None:
        raise ConfigurationError("--profile needs py-spy: pip install py-spy")
    return found


@contextmanager
def profiling(pids: Sequence[int], directory: Path, name: str) -> Iterator[list[str]]:
    """Record the processes. The list is filled at the end: the functions found most often, as lines of text.

    The stacks are left in `directory`, one file a process, in the collapsed form that flame graphs are made of.
    """
    command = [require_profiler(), "record", "--rate", str(RATE), "--gil", "--nonblocking", "--format", "raw"]
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{name}-{number}.collapsed.txt" for number, _ in enumerate(pids, 1)]
    recorders = [
        subprocess.Popen(
            [*command, "--pid", str(pid), "--output", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pid, file in zip(pids, files, strict=True)
    ]
    lines: list[str] = []
    try:
        yield lines
    finally:
        for recorder in recorders:
            recorder.send_signal(signal.SIGINT)
        for recorder in recorders:
            try:
                recorder.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                recorder.kill()
                recorder.wait()
    texts = [file.read_text(encoding="utf-8") for file in files if file.exists()]
    lines += [f"{name}: stacks are in {directory}", *top_functions(texts)]


def top_functions(collapsed: Sequence[str], top: int = TOP) -> list[str]:
    """The functions of collapsed stacks with the largest shares: their own, and with what they call."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in (line for text in collapsed for line in text.splitlines()):
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        whole.update(dict.fromkeys(frames, int(count)))
    if not total:
        return ["nothing was recorded"]
    lines = ["  own %   function"]
    lines += [f"{count / total:7.1%}   {function}" for function, count in own.most_common(top)]
    lines += ["  with what it calls %   function"]
    lines += [f"{count / total:7.1%}   {function}" for function, count in whole.most_common(2 * top)]
    return lines


def _function(frame: str) -> str:
    """A frame without its line number, which splits a function into many."""
    head, _, line = frame.rpartition(":")
    return f"{head})" if head and line.rstrip(")").isdigit() else frame
