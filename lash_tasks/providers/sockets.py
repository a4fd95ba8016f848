"""Sockets that another thread can call off and that never outstay a deadline, as httpcore's network backend.

httpx by itself offers neither: its timeouts bound one read, not the call, and a blocked thread cannot be woken.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager, suppress

import httpcore

from lash_tasks.clock import Clock


class Exchange:
    """One request and its answer: until when it may last, and what to stop when it is called off."""

    def __init__(self, clock: Clock, deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._lock = threading.Lock()
        self._called_off = False
        self._stop: Callable[[], object] | None = None

    @property
    def overdue(self) -> bool:
        return self._clock.monotonic() >= self._deadline

    def hurry(self, seconds: float) -> None:
        """Let it last at most `seconds` from now."""
        self._deadline = min(self._deadline, self._clock.monotonic() + seconds)

    def call_off(self) -> None:
        """Wake the thread that is blocked in this exchange, now or when it next blocks. From any thread."""
        with self._lock:
            self._called_off = True
            if self._stop is not None:
                self._stop()

    @contextmanager
    def blocking(
        self, stop: Callable[[], object], timed_out: type[Exception], failure: type[Exception]
    ) -> Iterator[None]:
        """Around an operation that blocks and that `stop` ends from another thread; translates its errors."""
        with self._lock:
            if self._called_off:
                raise failure("called off")
            self._stop = stop
        try:
            yield
        except TimeoutError as error:
            raise timed_out(str(error)) from error
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            raise failure(str(error)) from error
        finally:
            # The owner closes the socket only after this, so `stop` never meets a descriptor that was reused.
            with self._lock:
                self._stop = None

    def seconds(self, limit: float | None, failure: type[Exception]) -> float:
        """How long the next operation may block: `limit`, or what the deadline leaves of it."""
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise failure("the deadline has passed")
        return left if limit is None else min(limit, left)


class Line(httpcore.NetworkBackend):
    """The connections of one thread. `exchange` is the one under way."""

    exchange: Exchange

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self.exchange.seconds(timeout, httpcore.ConnectTimeout)
        # Half for one address, so that a second one gets its turn when the first does not answer.
        connected = _connect_elsewhere(host, port, seconds / 2)
        try:
            with self.exchange.blocking(connected.cancel, httpcore.ConnectTimeout, httpcore.ConnectError):
                connection = connected.result(seconds)
        except CancelledError as error:
            raise httpcore.ConnectError("called off") from error
        except Exception:
            _abandon(connected)
            raise
        return _Stream(connection, self)


class _Stream(httpcore.NetworkStream):
    def __init__(self, connection: socket.socket, line: Line) -> None:
        self._socket = connection
        self._line = line
        self._timeout: float | None = None
        self._unsent = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            with suppress(httpcore.WriteError):  # a server that refuses a request early has answered all the same
                self._send(timeout)
        with self._blocking(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep it until the answer is read: so the head of a request and its body go in one piece."""
        self._unsent += buffer

    def _send(self, timeout: float | None) -> None:
        unsent, self._unsent = self._unsent, b""
        with self._blocking(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            self._socket.sendall(unsent)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            with self._blocking(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                secured = ssl_context.wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
            self._socket = secured
            with self._blocking(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                secured.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> object:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        if info == "is_readable":
            return _is_readable(self._socket)
        return None

    @contextmanager
    def _blocking(self, timeout: float | None, timed_out: type[Exception], failure: type[Exception]) -> Iterator[None]:
        exchange, connection = self._line.exchange, self._socket
        seconds = exchange.seconds(timeout, timed_out)
        if seconds != self._timeout:  # as a rule it is the same again, and each setting is a call of the kernel
            connection.settimeout(seconds)
            self._timeout = seconds
        with exchange.blocking(lambda: _shut(connection), timed_out, failure):
            yield


def _shut(connection: socket.socket) -> None:
    """Wake whoever is blocked on `connection`, which stays open for its owner to close."""
    with suppress(OSError):
        # Not SSLSocket.shutdown, which takes the TLS layer away from the thread that is reading.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _is_readable(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _connect_elsewhere(host: str, port: int, seconds: float) -> Future[socket.socket]:
    """Look `host` up and connect in a thread of its own: neither can be woken, only left behind."""
    future: Future[socket.socket] = Future()

    def connect() -> None:
        try:
            connection = socket.create_connection((host, port), seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except Exception as error:
            with suppress(InvalidStateError):
                future.set_exception(error)
            return
        try:
            future.set_result(connection)
        except InvalidStateError:
            connection.close()

    threading.Thread(target=connect, name="lash-connect", daemon=True).start()
    return future


def _abandon(connected: Future[socket.socket]) -> None:
    if not connected.cancel() and connected.exception() is None:
        connected.result().close()
