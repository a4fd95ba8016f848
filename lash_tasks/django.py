"""Django: the agents of its installed apps, and database connections that a tool's thread does not keep too long.

Django closes what is too old or broken at the ends of a request, and Celery's fixup at the ends of a task. Tools run in
threads of their own, which see neither. Django itself is imported only where it is used.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType

import celery

from lash_tasks.domain.turns import TurnContext
from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import OpenDeps
from lash_tasks.tools.definition import Tool


def serves(app: celery.Celery) -> bool:
    """Whether Celery has found the app to be part of a Django project."""
    fixup = "celery.fixups.django"
    return any(type(one).__module__ == fixup for one in getattr(app, "_fixups", ()))


def agents_modules() -> Iterator[ModuleType]:
    """The `agents` module of every installed app that has one, imported. What such a module raises comes through."""
    try:
        import django
        from django.apps import apps
        from django.core.exceptions import ImproperlyConfigured
        from django.utils.module_loading import module_has_submodule
    except ImportError as error:
        raise ConfigurationError("autodiscover() looks into a Django project; install django") from error
    try:
        if not apps.ready:
            django.setup()
    except ImproperlyConfigured as error:
        problem = f"set DJANGO_SETTINGS_MODULE to your Django project's settings ({error})"
        raise ConfigurationError(f"autodiscover() could not set Django up; {problem}") from error
    for config in apps.get_app_configs():
        if module_has_submodule(config.module, "agents"):
            yield importlib.import_module(f"{config.name}.agents")


# ---------------------------------------------------------------- connections


def tidy_deps(deps: OpenDeps | None) -> OpenDeps:
    """`deps` with Django's old and broken connections of the thread closed before it and after it."""

    @contextmanager
    def opened() -> Iterator[object]:
        with _tidy(), (deps or nullcontext)() as value:
            yield value

    return opened


def tidy_agent(agent: Agent) -> Agent:
    """The same agent, for the parts that `deps` does not surround: the instructions and what `async` tools do."""
    tools = [_tidy_tool(tool) for tool in agent.tools]
    if isinstance(agent.instructions, str):
        return replace(agent, tools=tools)
    return replace(agent, tools=tools, instructions=_tidy_instructions(agent.instructions))


def _tidy_instructions(instructions: Callable[[TurnContext], str]) -> Callable[[TurnContext], str]:
    @functools.wraps(instructions)
    def tidied(turn: TurnContext) -> str:
        with _tidy():
            return instructions(turn)

    return tidied


def _tidy_tool(tool: Tool[..., object]) -> Tool[..., object]:
    """A coroutine reaches the database in asgiref's one thread, where every call must find what the others left."""
    function = tool.function
    if not inspect.iscoroutinefunction(function):
        return tool

    @functools.wraps(function)
    async def tidied(**arguments: object) -> object:
        from asgiref.sync import sync_to_async
        from django.db import close_old_connections

        await sync_to_async(close_old_connections)()
        try:
            return await function(**arguments)
        finally:
            await sync_to_async(close_old_connections)()

    return Tool(tidied, tool.spec, tool.signature)


@contextmanager
def _tidy() -> Iterator[None]:
    from django.db import close_old_connections

    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
