"""A turn's wish to stop: the first reason stands, and whoever asked to be told is told once."""

from __future__ import annotations

import threading

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt


@pytest.fixture
def interrupt() -> TurnInterrupt:
    return TurnInterrupt(FakeClock())


def test_the_first_reason_stands(interrupt: TurnInterrupt) -> None:
    interrupt.set(InterruptReason.CANCELLED)
    interrupt.set(InterruptReason.LOST)
    assert interrupt.reason is InterruptReason.CANCELLED
    with pytest.raises(Interrupted) as raised:
        interrupt.check()
    assert raised.value.reason is InterruptReason.CANCELLED


def test_unset_it_lets_everybody_go_on(interrupt: TurnInterrupt) -> None:
    interrupt.check()
    assert interrupt.reason is None
    assert not interrupt.wait(0.1)


def test_a_callback_is_called_once_and_one_that_unsubscribed_not_at_all(interrupt: TurnInterrupt) -> None:
    called: list[str] = []
    interrupt.on_set(lambda: called.append("one"))
    forget = interrupt.on_set(lambda: called.append("two"))
    forget()
    forget()
    interrupt.set(InterruptReason.DRAINING)
    interrupt.set(InterruptReason.DRAINING)
    assert called == ["one"]


def test_a_callback_that_comes_late_is_called_at_once(interrupt: TurnInterrupt) -> None:
    called: list[str] = []
    interrupt.set(InterruptReason.LOST)
    forget = interrupt.on_set(lambda: called.append("late"))
    forget()
    assert called == ["late"]


def test_a_callback_may_ask_and_subscribe_again(interrupt: TurnInterrupt) -> None:
    called: list[object] = []

    def callback() -> None:
        interrupt.on_set(lambda: called.append(interrupt.reason))

    interrupt.on_set(callback)
    interrupt.set(InterruptReason.LOST)
    assert called == [InterruptReason.LOST]


def test_setting_it_wakes_who_waits() -> None:
    interrupt = TurnInterrupt(SystemClock())
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(interrupt.wait(20)))
    waiting.start()
    interrupt.set(InterruptReason.CANCELLED)
    waiting.join(10)
    assert woken == [True]
