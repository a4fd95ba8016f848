"""A way to Postgres that can lose an answer: the server has done what it was told, and nobody hears of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import make_url


class LossyProxy:
    """Passes bytes between clients and a server. `lose_answer_to` cuts the connection in place of an answer."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._marker: bytes | None = None
        self._sockets: list[socket.socket] = [self._listening]
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def lose_answer_to(self, marker: bytes) -> None:
        """Once: pass on the next request that holds `marker`, wait for the answer, and throw it away."""
        self._marker = marker

    def close(self) -> None:
        for each in self._sockets:
            _cut(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                cut = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, server, cut), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if self._marker is not None and self._marker in data:
                    self._marker = None
                    cut.set()
                server.sendall(data)
        _cut(server)

    def _answers(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if cut.is_set():
                    self.lost += 1
                    break
                client.sendall(data)
        _cut(client)
        _cut(server)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def lossy(postgres_url: str) -> Iterator[tuple[LossyProxy, str]]:
    """A proxy before the server of this URL, and the URL that leads through it."""
    url = make_url(postgres_url)
    proxy = LossyProxy((url.host or "127.0.0.1", url.port or 5432))
    through = url.set(host="127.0.0.1", port=proxy.port).update_query_dict(
        {"sslmode": "disable", "gssencmode": "disable"}
    )
    try:
        yield proxy, through.render_as_string(hide_password=False)
    finally:
        proxy.close()
