"""The services of docker-compose.yml, started by hand: their commands and health checks, without containers."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cli.calling import ROOT, environment

FILE = ROOT / "docker-compose.yml"
EXAMPLES = ROOT / "examples"
_VARIABLE = re.compile(r"\$\$|\$\{(\w+):-([^}]*)\}")


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file's services, its variables replaced as Compose does it."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1]) or match[2]

    services: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(replaced, FILE.read_text()))["services"]
    return services


@dataclass
class Service:
    """One service as a process. `places` says what stands here for addresses and paths that a container has alone."""

    name: str
    definition: Mapping[str, Any]
    directory: Path
    places: Mapping[str, str]
    more: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def environment(self) -> dict[str, str]:
        """What the container would have, and nothing of the developer's."""
        given = {name: self._here(str(value)) for name, value in self.definition.get("environment", {}).items()}
        path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        return {**environment(), **given, "HOSTNAME": self.name, "PATH": path}

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            self._command(), cwd=EXAMPLES, env=self.environment, capture_output=True, text=True, check=False
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=EXAMPLES,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def healthy(self) -> bool:
        """What the health check says, run by a shell as Docker runs it."""
        check = self._here(self.definition["healthcheck"]["test"])
        return (
            subprocess.run(
                ["/bin/sh", "-c", check], cwd=EXAMPLES, env=self.environment, capture_output=True, check=False
            ).returncode
            == 0
        )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """Stop it as Compose does; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def _command(self) -> list[str]:
        return [*shlex.split(self._here(self.definition["command"])), *self.more]

    def _here(self, text: str) -> str:
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text
