"""A RabbitMQ of a test's own, to be killed and restarted."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import kombu

from tests.services import PrivateServer, ServiceMissing, free_port

PACKAGED = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's command of that name changes the user and forgets the environment; this is what it starts."""


class PrivateRabbitMQ(PrivateServer):
    """What is durable survives `kill` and `restart`, and goes with `stop`. ServiceMissing where none is installed."""

    name = "rabbitmq"
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        super().__init__()
        self._distribution_port = free_port()
        found = PACKAGED if PACKAGED.exists() else shutil.which("rabbitmq-server")
        if found is None:
            raise ServiceMissing("no rabbitmq-server is installed: install one")
        self._binary = str(found)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def close_connections(self) -> None:
        """Close every client's connection, as a server does that is told to, or a load balancer that restarts."""
        assert self._directory is not None
        control = Path(self._binary).with_name("rabbitmqctl")
        subprocess.run(
            [
                *("env", *self._environment(self._directory), str(control)),
                *("--node", self._node, "close_all_connections", "a test"),
            ],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    @property
    def _node(self) -> str:
        return f"lash-test-{self.port}@localhost"

    def _command(self, directory: Path) -> list[str]:
        return ["env", *self._environment(directory), self._binary]

    def _environment(self, directory: Path) -> list[str]:
        environment = {
            "HOME": directory,  # where Erlang's cookie is
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "RABBITMQ_MNESIA_BASE": directory / "mnesia",
            "RABBITMQ_LOG_BASE": directory,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": directory / "plugins",
            "RABBITMQ_CONFIG_FILE": directory / "none",
            "RABBITMQ_CONF_ENV_FILE": directory / "none",
        }
        return [f"{name}={value}" for name, value in environment.items()]

    def _answers(self) -> bool:
        try:
            with kombu.Connection(self.url, connect_timeout=1) as connection:
                connection.connect()
        except OSError:
            return False
        return True
