"""For tests of applications: a Lash, embedded on a database of its own, whose models say what a script says.

`run_scripted` is a context manager and needs no pytest. As a pytest plugin (`pytest_plugins = ["lash_tasks.testing"]`)
the module brings the fixture `scripted_lash`, which does the same and cleans up after the test. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lash_tasks.app import Lash
from lash_tasks.client import Client
from lash_tasks.domain.codec import canonical
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.inputs import TurnInput
from lash_tasks.domain.messages import TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.turns import AssembledTurn, TurnContext
from lash_tasks.machine.requests import ModelRequest, ModelResponse, TerminalReason
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, Provider, ProviderFailure
from lash_tasks.providers.scripted import ScriptedProvider, last_user_text
from lash_tasks.settings import Settings
from lash_tasks.tools.calling import OpenDeps

SESSION = "test"


# ---------------------------------------------------------------- what a script says


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls a tool. A list of these is one round of parallel calls. Make it with `call`."""

    tool: str
    arguments: dict[str, Any]


def call(tool: str, /, **arguments: Any) -> Call:
    """The model calls `tool` with these arguments, which may be whatever JSON can carry."""
    return Call(tool, arguments)


@dataclass(frozen=True, slots=True)
class Failure:
    """The model call fails for good. With `retryable` the agent's next fallback is asked."""

    message: str = "the model server is overloaded"
    code: str = "provider_error"
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that a model received."""

    model: str
    """As the agent names it, such as `openai:gpt-5-mini`."""
    request: ModelRequest
    turn: TurnContext

    @property
    def agent(self) -> str:
        return self.turn.agent

    @property
    def system(self) -> str:
        """The instructions."""
        return self.request.system

    @property
    def text(self) -> str:
        """What the user said last."""
        return last_user_text(self.request)

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that are offered."""
        return tuple(spec.name for spec in self.request.tools)

    @property
    def tool_results(self) -> tuple[ToolResultPart, ...]:
        """The results that this request brings back to the model, in the order of the calls."""
        parts = self.request.messages[-1].parts if self.request.messages else ()
        return tuple(part for part in parts if isinstance(part, ToolResultPart))


Reply = str | Call | Sequence[Call] | Failure | ModelResponse
Answer = Callable[[Asked], Reply]
Script = Sequence[Reply | Answer] | Answer
"""Replies in the order of the model calls, each fixed or a function of the request; or one function for all of them."""


class ScriptExhausted(AssertionError):
    """A model was asked once more than the script has replies."""


# ---------------------------------------------------------------- what runs


@dataclass(eq=False)
class ScriptedLash:
    """An application at work. `requests` are all that its models were asked, oldest first."""

    _lash: Lash
    _script: _Script

    @property
    def requests(self) -> list[Asked]:
        return list(self._script.asked)

    @property
    def replies_left(self) -> int:
        """How many replies nobody has asked for; 0 where the script is a function."""
        return len(self._script.replies)

    @property
    def client(self) -> Client:
        """Everything that a client can do: follow, cancel, receipts, usage."""
        return self._lash.client

    def send(
        self,
        text: str | TurnInput,
        *,
        agent: str | None = None,
        session: str = SESSION,
        timeout: float = 10.0,
        **options: Any,
    ) -> AssembledTurn:
        """Send an input, wait for its turn and return it, whatever its outcome.

        `agent` may be left out if there is only one; `options` are those of `Client.send`. Raises ScriptExhausted,
        and what a function of the script raised: an `assert` in one fails the test.
        """
        receipt = self.client.send(session, text, agent=agent or self._only_agent(), **options)
        turn = receipt.result(timeout=timeout)
        self.check()
        return turn

    def check(self) -> None:
        """Raise what went wrong in the script and was not raised yet. Done by `send`, and at the end."""
        self._script.raise_problem()

    def _only_agent(self) -> str:
        names = sorted(self._lash.agents)
        if len(names) != 1:
            raise ValueError(f"name the agent: send(…, agent=…); the application has {', '.join(names) or 'none'}")
        return names[0]


@contextmanager
def run_scripted(
    lash: Lash, script: Script, *, deps: OpenDeps | None = None, database: Path | None = None
) -> Iterator[ScriptedLash]:
    """Run an application in this process with a script in place of every model server.

    It is a copy on a SQLite file of its own (`database`, else a temporary one): neither the environment nor Redis, a
    broker or a network is touched, and `lash` itself stays as it was. Tools run as they are; `deps` takes the place of
    the application's, for tools that reach outside.
    """
    with ExitStack() as opened:
        if database is None:
            database = Path(opened.enter_context(TemporaryDirectory(prefix="lash-"))) / "lash.db"
        prepared = _Script(script)
        settings = Settings(database_url=f"sqlite:///{database}", drain_grace=0)
        copy = lash.embedded_copy(settings, providers=_providers(lash, prepared), deps=deps)
        running = ScriptedLash(opened.enter_context(copy), prepared)
        yield running
        running.check()


if find_spec("pytest") is not None:
    import pytest

    @pytest.fixture
    def scripted_lash(tmp_path: Path) -> Iterator[Callable[..., ScriptedLash]]:
        """`scripted_lash(lash, script, deps=…)`: an application at work until the test ends."""
        with ExitStack() as opened:
            numbers = iter(range(1, 1000))

            def start(lash: Lash, script: Script, *, deps: OpenDeps | None = None) -> ScriptedLash:
                database = tmp_path / f"lash-{next(numbers)}.db"
                return opened.enter_context(run_scripted(lash, script, deps=deps, database=database))

            yield start


# ---------------------------------------------------------------- the model that speaks it


@dataclass(eq=False)
class _Script:
    """What is left of a script, what was asked, and what went wrong. Safe from the threads of several turns."""

    script: Script
    replies: deque[Reply | Answer] = field(init=False)
    asked: list[Asked] = field(default_factory=list)
    _problem: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if isinstance(self.script, str):
            raise TypeError("a script is a list of replies, or a function of the request; put the text into a list")
        self.replies = deque(() if callable(self.script) else self.script)

    def answer(self, asked: Asked) -> ModelResponse:
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked)
            reply = self._next(asked, number)
        try:
            return _response(reply(asked) if callable(reply) else reply, number)
        except ProviderFailure:
            raise
        except BaseException as problem:  # also `pytest.fail`, which is no Exception
            self._note(problem)
            message = f"the script raised {type(problem).__name__}"
            raise ProviderFailure(message, code="script_failed", kind="unsupported") from problem

    def _next(self, asked: Asked, number: int) -> Reply | Answer:
        if callable(self.script):
            return self.script
        if self.replies:
            return self.replies.popleft()
        results = ", ".join(part.tool for part in asked.tool_results)
        said = f"the results of {results}" if results else repr(asked.text)
        message = (
            f"the script has no reply for model call {number}: {asked.model} of agent {asked.agent!r} was sent {said} "
            "in session {!r}; add a reply, or see why it is asked again".format(str(asked.turn.session_id))
        )
        self._note(ScriptExhausted(message))
        raise ProviderFailure(message, code="script_exhausted", kind="unsupported")

    def _note(self, problem: BaseException) -> None:
        self._problem = self._problem or problem

    def raise_problem(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem


@dataclass(frozen=True, slots=True)
class _ScriptedServer:
    """Stands for one provider of the application."""

    name: str
    script: _Script

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        response = self.script.answer(Asked(f"{self.name}:{call.model}", call.request, call.turn))
        return ScriptedProvider({call.model: lambda _: response}).complete(call, stream, interrupt)

    def close(self) -> None:
        return


def _providers(lash: Lash, script: _Script) -> dict[str, Provider]:
    """A scripted server for every provider that an agent names."""
    models = [model for agent in lash.agents.values() for model in (agent.model, *agent.fallbacks)]
    return {name: _ScriptedServer(name, script) for name in {model.partition(":")[0] for model in models}}


def _response(reply: Reply, number: int) -> ModelResponse:
    match reply:
        case ModelResponse():
            return reply
        case str():
            return ModelResponse((TextPart(reply),), terminal_reason=TerminalReason.STOP)
        case Call():
            return _response([reply], number)
        case Failure():
            raise ProviderFailure(reply.message, code=reply.code, retryable=reply.retryable)
        case Sequence() if reply:
            return ModelResponse(tuple(_calls(reply, number)), terminal_reason=TerminalReason.TOOL_USE)
        case _:
            raise _no_reply(reply, number)


def _calls(reply: Sequence[object], number: int) -> Iterator[ToolCallPart]:
    for at, one in enumerate(reply):
        if not isinstance(one, Call):
            raise _no_reply(reply, number)
        yield ToolCallPart(CallId(f"call_{number}_{at}"), one.tool, canonical(one.arguments).decode())


def _no_reply(reply: object, number: int) -> TypeError:
    return TypeError(f"reply {number} of the script is {reply!r}; give a text, call(…), a list of calls, or Failure(…)")
