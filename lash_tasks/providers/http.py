"""HTTP as the providers use it: one POST, its answer in chunks, bounded in time and called off by an Interrupt."""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpcore
import httpx

from lash_tasks.clock import Clock
from lash_tasks.ports import Interrupt, ProviderFailure
from lash_tasks.providers.sockets import Exchange, Line

KEEP_ALIVE_SECONDS = 30.0
MAX_BODY_BYTES = 16 * 1024 * 1024
# Compression delays small events and buys nothing for them.
_HEADERS = {"Accept": "*/*", "User-Agent": "lash-tasks", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a server may take to be reached, and to send the next bytes."""

    connect_seconds: float = 10.0
    chunk_seconds: float = 120.0


DEFAULT_TIMEOUTS = Timeouts()


class Answer:
    """The answer to one POST. Its methods raise ProviderFailure and nothing else."""

    def __init__(self, response: httpx.Response, exchange: Exchange, translated: _Translator) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._exchange = exchange
        self._translated = translated

    def chunks(self) -> Iterator[bytes]:
        with self._translated():
            yield from self._response.iter_bytes()

    def body(self) -> bytes:
        """All of it; ProviderFailure `response_too_large` beyond the limit."""
        content = bytearray()
        for chunk in self.chunks():
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                raise too_large()
        return bytes(content)

    def hurry(self, seconds: float) -> None:
        """Read on for at most `seconds`: what matters has arrived."""
        self._exchange.hurry(seconds)


def too_large() -> ProviderFailure:
    return ProviderFailure(
        "the model server sent more than this client reads", code="response_too_large", kind="stream"
    )


class HttpClients:
    """One httpx transport per thread, all with one SSL context: one that threads share is slow at width.

    A transport is closed when its thread ends, and all are by `close`.
    """

    def __init__(
        self,
        clock: Clock,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        make_ssl_context: Callable[[], ssl.SSLContext] = httpx.create_ssl_context,
    ) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._make_ssl_context = make_ssl_context
        self._ssl_context: ssl.SSLContext | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._seats: weakref.WeakSet[_Seat] = weakref.WeakSet()

    @contextmanager
    def post(
        self, url: httpx.URL, headers: Mapping[str, str], body: bytes, *, deadline: float, interrupt: Interrupt
    ) -> Iterator[Answer]:
        """Send `body` and hand out the answer as soon as its headers are there.

        Ends by `deadline` (of the clock's `monotonic`), and within a moment of `interrupt`, whatever the server
        does. Raises ProviderFailure of kind timeout or transport, retryable; one that `interrupt` caused looks the
        same, so the caller asks `interrupt` first.
        """
        interrupt.check()
        seat = self._seat()
        exchange = Exchange(self._clock, deadline)
        seat.line.exchange = exchange
        translated = _Translator(exchange, self._timeouts, url.host)
        unsubscribe = interrupt.on_set(exchange.call_off)
        try:
            with translated():
                response = seat.send(url, headers, body)
            try:
                yield Answer(response, exchange, translated)
            finally:
                response.close()
        finally:
            unsubscribe()

    def close(self) -> None:
        with self._lock:
            seats = list(self._seats)
        for seat in seats:
            seat.transport.close()

    def _seat(self) -> _Seat:
        seat: _Seat | None = getattr(self._local, "seat", None)
        if seat is None:
            with self._lock:
                if self._ssl_context is None:
                    self._ssl_context = self._make_ssl_context()
                seat = _Seat(self._ssl_context, self._timeouts)
                self._seats.add(seat)
            self._local.seat = seat
        return seat


class _Seat:
    """The connections of one thread. Only that thread's locals hold it, so it goes when the thread does.

    Requests go to the transport as they are: a model server sets no cookies and sends nobody elsewhere, and what an
    `httpx.Client` does for those that do costs as much as the request itself.
    """

    def __init__(self, ssl_context: ssl.SSLContext, timeouts: Timeouts) -> None:
        self.line = Line()
        self.transport = _Transport(ssl_context, self.line)
        patience = httpx.Timeout(timeouts.chunk_seconds, connect=timeouts.connect_seconds)
        self._extensions = {"timeout": patience.as_dict()}
        weakref.finalize(self, self.transport.close)

    def send(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        request = httpx.Request("POST", url, headers={**_HEADERS, **headers}, content=body, extensions=self._extensions)
        return self.transport.handle_request(request)


class _Transport(httpx.BaseTransport):
    """httpx on an httpcore pool whose sockets are ours."""

    def __init__(self, ssl_context: ssl.SSLContext, line: Line) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            network_backend=line,
            max_keepalive_connections=1,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _Translator:
    """Turns what httpx and httpcore raise into what a provider raises."""

    def __init__(self, exchange: Exchange, timeouts: Timeouts, host: str) -> None:
        self._exchange = exchange
        self._timeouts = timeouts
        self._host = host

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.HTTPError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> ProviderFailure:
        if isinstance(error, httpcore.TimeoutException):
            return ProviderFailure(self._too_long(error), code="timeout", kind="timeout", retryable=True)
        match error:
            case httpcore.ConnectError():
                message, code = f"cannot connect to {self._host}: {error}", "connection_failed"
            case httpcore.NetworkError():
                message, code = f"the connection to {self._host} broke: {error}", "connection_lost"
            case httpcore.LocalProtocolError():
                message = f"the request to {self._host} cannot be sent: a header is not valid HTTP"
                return ProviderFailure(message, code="invalid_request", kind="validation")
            case _:
                # Without the error's own text, which quotes what the server sent.
                message, code = f"{self._host} closed the connection early or sent no valid HTTP", "connection_lost"
        return ProviderFailure(message, code=code, kind="transport", retryable=True)

    def _too_long(self, error: httpcore.TimeoutException) -> str:
        if self._exchange.overdue:
            return "the model call used up its time"
        if isinstance(error, httpcore.ConnectTimeout):
            return f"no connection to {self._host} within {self._timeouts.connect_seconds:g} s"
        return f"{self._host} sent nothing for {self._timeouts.chunk_seconds:g} s"
