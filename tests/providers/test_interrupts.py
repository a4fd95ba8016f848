"""An interrupt ends a call within a second wherever it is, and the thread's next call works (T13.4)."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.messages import TextPart
from lash_tasks.ports import Interrupted, InterruptReason, ProviderFailure
from lash_tasks.providers import open_providers
from lash_tasks.providers.endpoint import HttpProvider
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.settings import Settings
from tests.endpoint import ModelEndpoint, Reply, Seen, Step, delta, error_reply, text_reply
from tests.providers.parts import RecordingStream, call_of, full_listener, openai_at
from tests.services import wait_until

STALLED = Reply((delta(content="Hel"), Step.STALL))


class Caller(threading.Thread):
    """One thread that calls, is interrupted, and calls again on the same client."""

    def __init__(self, provider: HttpProvider, again: HttpProvider | None = None) -> None:
        super().__init__(daemon=True)
        self.interrupt = TurnInterrupt(SystemClock())
        self.stream = RecordingStream()
        self.ended_at = 0.0
        self.reason: InterruptReason | None = None
        self.next_text: object = None
        self._provider = provider
        self._again = again or provider
        self.start()

    def run(self) -> None:
        try:
            self._provider.complete(call_of("first"), self.stream, self.interrupt)
        except Interrupted as interrupted:
            self.reason = interrupted.reason
        finally:
            self.ended_at = time.monotonic()
        fresh = TurnInterrupt(SystemClock())
        self.next_text = self._again.complete(call_of("second"), RecordingStream(), fresh).parts

    def cancel(self) -> float:
        """Interrupt it; returns the seconds until the call had ended."""
        began = time.monotonic()
        self.interrupt.set(InterruptReason.CANCELLED)
        self.join(10)
        assert self.reason is InterruptReason.CANCELLED
        return self.ended_at - began


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


Open = Callable[[Callable[[str], Reply]], tuple[ModelEndpoint, HttpProvider]]


@pytest.fixture(params=["http", "https"])
def open_both(request: pytest.FixtureRequest, tls_files: tuple[Path, Path]) -> Iterator[Open]:
    """An endpoint that answers by the last user text, and a provider for it, in the clear and over TLS."""
    server_tls = client_tls = None
    if request.param == "https":
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(*tls_files)
        client_tls = ssl.create_default_context(cafile=str(tls_files[0]))
    opened: list[tuple[ModelEndpoint, HttpProvider]] = []

    def open_both(answer: Callable[[str], Reply]) -> tuple[ModelEndpoint, HttpProvider]:
        endpoint = ModelEndpoint(lambda body: answer(body["messages"][-1]["content"]), tls=server_tls).start()
        policy = RetryPolicy(base_seconds=30.0, max_seconds=30.0)
        provider = openai_at(endpoint.base_url, clock=SystemClock(), tls=client_tls, policy=policy)
        opened.append((endpoint, provider))
        return opened[-1]

    yield open_both
    for endpoint, provider in opened:
        provider.close()
        endpoint.stop()


def only_first(reply: Reply) -> Callable[[str], Reply]:
    return lambda text: reply if text == "first" else text_reply("again")


def gone(endpoint: ModelEndpoint) -> Seen:
    """The first request, once the server has seen its client go."""
    wait_until(lambda: endpoint.requests[0].gone_at, 5, "the server to see the client go")
    return endpoint.requests[0]


def test_in_mid_stream(open_both: Open) -> None:
    endpoint, provider = open_both(only_first(STALLED))
    caller = Caller(provider)
    wait_until(lambda: caller.stream.of("text"), 5, "the first piece")
    began = time.monotonic()
    assert caller.cancel() < 1
    assert (gone(endpoint).gone_at or 0) - began < 1
    assert caller.stream.events == [("text", "Hel")]
    assert caller.next_text == (TextPart("again"),)


def test_while_waiting_for_headers(open_both: Open) -> None:
    endpoint, provider = open_both(only_first(Reply(stall_before_headers=True)))
    caller = Caller(provider)
    wait_until(lambda: endpoint.requests, 5, "the request")
    began = time.monotonic()
    assert caller.cancel() < 1
    assert (gone(endpoint).gone_at or 0) - began < 1
    assert caller.next_text == (TextPart("again"),)


def test_on_a_connection_that_was_used_before(open_both: Open) -> None:
    endpoint, provider = open_both(lambda text: STALLED if text == "first" else text_reply("again"))
    warm = RecordingStream()

    class Warm(Caller):
        def run(self) -> None:
            self._provider.complete(call_of("warm"), warm, self.interrupt)
            super().run()

    caller = Warm(provider)
    wait_until(lambda: caller.stream.of("text"), 5, "the first piece")
    assert endpoint.accepted == 1
    assert caller.cancel() < 1
    assert caller.next_text == (TextPart("again"),)


def test_in_backoff(open_both: Open) -> None:
    endpoint, provider = open_both(only_first(error_reply(503, "busy")))
    caller = Caller(provider)
    wait_until(lambda: caller.stream.of("retrying"), 5, "the wait to begin")
    assert caller.cancel() < 1
    assert len(endpoint.requests) == 2
    assert caller.next_text == (TextPart("again"),)


def test_between_two_pieces(open_both: Open) -> None:
    """Set from the thread that reads, while the rest of the answer already waits in the socket."""
    _, provider = open_both(lambda _: Reply([delta(content="x")] * 5000))
    interrupt = TurnInterrupt(SystemClock())
    stream = RecordingStream(on_text=lambda: interrupt.set(InterruptReason.LOST))
    with pytest.raises(Interrupted) as caught:
        provider.complete(call_of(), stream, interrupt)
    assert caught.value.reason is InterruptReason.LOST
    assert len(stream.events) < 5000


def test_before_it_began(open_both: Open) -> None:
    endpoint, provider = open_both(lambda _: text_reply("a"))
    interrupt = TurnInterrupt(SystemClock())
    interrupt.set(InterruptReason.DRAINING)
    with pytest.raises(Interrupted):
        provider.complete(call_of(), RecordingStream(), interrupt)
    assert endpoint.requests == []


def test_while_shaking_hands(open_both: Open) -> None:
    """The server accepts the connection and never says a word of TLS."""
    _, again = open_both(lambda _: text_reply("again"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = openai_at(f"https://127.0.0.1:{silent.getsockname()[1]}/v1", clock=SystemClock())
        caller = Caller(provider, again)
        connection, _ = silent.accept()
        with connection, closing(provider):
            assert connection.recv(1) == b"\x16"  # the first byte of a ClientHello
            assert caller.cancel() < 1
            assert caller.next_text == (TextPart("again"),)


def test_while_connecting() -> None:
    with full_listener() as (host, port), ModelEndpoint(lambda _: text_reply("again")) as endpoint:
        provider = openai_at(f"http://{host}:{port}/v1", clock=SystemClock())
        again = openai_at(endpoint.base_url)
        caller = Caller(provider, again)
        wait_until(_connecting, 5, "the connection attempt")
        assert caller.cancel() < 1
        assert caller.next_text == (TextPart("again"),)
    wait_until(lambda: not _connecting(), 10, "the attempt that was left behind to end")
    provider.close()
    again.close()


def _connecting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lash-connect"]


def test_while_looking_the_name_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs; the connection that it leads to after all is closed."""
    found, looked = threading.Event(), threading.Event()
    with ModelEndpoint(lambda _: text_reply("a")) as endpoint:
        port = int(endpoint.base_url.rpartition(":")[2].removesuffix("/v1"))
        real = socket.create_connection
        made: list[socket.socket] = []

        def slow(address: tuple[str, int], timeout: float) -> socket.socket:
            looked.set()
            found.wait(20)
            made.append(real(("127.0.0.1", port), timeout))
            return made[-1]

        monkeypatch.setattr(socket, "create_connection", slow)
        provider, again = (openai_at(f"http://slow.invalid:{port}/v1", clock=SystemClock()) for _ in range(2))
        interrupt = TurnInterrupt(SystemClock())

        def cancel() -> None:
            looked.wait(5)
            interrupt.set(InterruptReason.CANCELLED)

        timer = threading.Thread(target=cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            provider.complete(call_of(), RecordingStream(), interrupt)
        assert time.monotonic() - began < 1
        found.set()
        wait_until(lambda: made and made[0].fileno() < 0, 5, "the late connection to be closed")
        timer.join()
        with closing(again):
            assert again.complete(call_of(), RecordingStream(), TurnInterrupt(SystemClock())).parts == (TextPart("a"),)
        provider.close()


def test_a_call_that_has_ended_leaves_no_callback_behind(open_both: Open) -> None:
    class Counting(TurnInterrupt):
        subscribed = 0

        def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
            unsubscribe = super().on_set(callback)
            self.subscribed += 1

            def leave() -> None:
                self.subscribed -= 1
                unsubscribe()

            return leave

    _, provider = open_both(lambda text: STALLED if text == "stall" else text_reply("a"))
    interrupt = Counting(SystemClock())
    provider.complete(call_of(), RecordingStream(), interrupt)
    assert interrupt.subscribed == 0
    with pytest.raises(ProviderFailure):
        provider.complete(call_of("stall", timeout_seconds=0.2), RecordingStream(), interrupt)
    assert interrupt.subscribed == 0


def test_a_late_callback_does_not_touch_the_next_call(open_both: Open) -> None:
    """An interrupt may run its callbacks after the call has ended and another turn uses the thread's client."""
    callbacks: list[Callable[[], None]] = []

    class Tardy(TurnInterrupt):
        def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
            callbacks.append(callback)
            return lambda: None

    _, provider = open_both(lambda _: text_reply("one", "two"))
    provider.complete(call_of(), RecordingStream(), Tardy(SystemClock()))
    stream = RecordingStream(on_text=callbacks[0])
    answer = provider.complete(call_of(), stream, TurnInterrupt(SystemClock()))
    assert answer.parts == (TextPart("onetwo"),)


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_files: tuple[Path, Path]) -> None:
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(*tls_files)
    with ModelEndpoint(lambda _: text_reply("a"), tls=server_tls) as endpoint:
        providers = open_providers(Settings(openai_base_url=endpoint.base_url), SystemClock())
        with closing(providers), pytest.raises(ProviderFailure, match="certificate verify failed"):
            providers.get("openai").complete(
                call_of(timeout_seconds=1.0), RecordingStream(), TurnInterrupt(SystemClock())
            )
        assert endpoint.requests == []
