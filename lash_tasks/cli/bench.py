"""`lash-tasks bench`: measure real workers beside a bare control, and compare with what was measured before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.errors import ConfigurationError, InvalidInput
from lash_tasks.settings import Settings

if TYPE_CHECKING:
    from lash_tasks.bench.scenes import Scene
    from lash_tasks.bench.sizes import Sizes
    from lash_tasks.bench.stage import Progress

_SCENES = "saturated, delayed, idle, history, wal, takeover"


def bench(
    scenes: Annotated[
        list[str] | None, typer.Argument(help=f"Which scenes: {_SCENES}. All of them by default.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Everything once and short: it works, the figures say nothing.")
    ] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, max=20, help="Run it so often, and take medians.")] = 1,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=32, help="Worker processes.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, max=1000, help="Threads of a worker.")
    ] = None,
    turns: Annotated[
        int | None, typer.Option("--turns", min=1, help="Turns measured in a closed loop, at least.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Seconds measured in a closed loop, at least.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", help="A Postgres server, instead of LASH_DATABASE_URL's.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option("--redis-url", help="A Redis, instead of LASH_REDIS_URL's.")] = None,
    private_postgres: Annotated[
        bool,
        typer.Option("--private-postgres", help="Start a Postgres with full_page_writes=off, from local binaries."),
    ] = False,
    private_redis: Annotated[bool, typer.Option("--private-redis", help="Start a Redis, from a local binary.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", file_okay=False, help="Record the workers with py-spy, into this directory."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="Write the result to this file, as JSON.")
    ] = None,
    versus: Annotated[
        Path | None, typer.Option("--vs", exists=True, dir_okay=False, help="Compare with an earlier result.")
    ] = None,
    show: Annotated[
        Path | None, typer.Option("--show", exists=True, dir_okay=False, help="Run nothing; show an earlier result.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure turns of two real workers beside a bare control, in a database of its own that is dropped again."""
    with command(as_json) as output:
        if find_spec("psutil") is None:
            raise ConfigurationError("the benchmark needs one more package: pip install lash-tasks[bench]")
        earlier = None if versus is None else _read(versus)
        if show is not None:
            result = _read(show)
        else:
            from lash_tasks.bench.performance import Order, perform

            sizes = _sizes(quick, workers, concurrency, turns, seconds)
            order = Order(
                settings=_settings(database_url, redis_url),
                scenes=_scenes(scenes),
                sizes=sizes,
                runs=runs,
                private_postgres=private_postgres,
                private_redis=private_redis,
                profiles=profile,
            )
            with _progress(output) as progress:
                result = perform(order, progress)
        if out is not None:
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        _report(output, result, earlier)


def _scenes(names: list[str] | None) -> list[Scene]:
    from lash_tasks.bench.scenes import Scene

    known = [scene.value for scene in Scene]
    for name in names or ():
        if name not in known:
            raise InvalidInput("scenes", f"there is no scene {name!r}; there are {', '.join(known)}")
    return [Scene(name) for name in dict.fromkeys(names or known)]


def _sizes(
    quick: bool, workers: int | None, concurrency: int | None, turns: int | None, seconds: float | None
) -> Sizes:
    from dataclasses import replace

    from lash_tasks.bench.sizes import Sizes

    sizes = Sizes().quick() if quick else Sizes()
    return replace(
        sizes,
        workers=sizes.workers if workers is None else workers,
        worker_threads=sizes.worker_threads if concurrency is None else concurrency,
        turns=sizes.turns if turns is None else turns,
        wal_turns=sizes.wal_turns if turns is None else turns,
        seconds=sizes.seconds if seconds is None else seconds,
    )


def _settings(database_url: str | None, redis_url: str | None) -> Settings:
    """The environment's, with what was given here instead."""
    settings = Settings.from_environment()
    given = {"database_url": database_url, "redis_url": redis_url}
    return Settings.model_validate(
        {**settings.model_dump(), **{name: url for name, url in given.items() if url is not None}}
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict) or "medians" not in result:
        raise InvalidInput(str(path), "holds no result of lash-tasks bench; write one with --out")
    return result


@contextmanager
def _progress(output: Output) -> Iterator[Progress]:
    """Shows on stderr what is being done: one line that changes, or for a pipe a line for what begins."""
    from lash_tasks.bench.stage import Progress

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Progress(output.note, lambda _: None)
        return
    with console.status("starting") as status:

        def update(sentence: str) -> None:
            status.update(escape(sentence))

        yield Progress(update, update)


def _report(output: Output, result: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
    from lash_tasks.bench.figures import compare
    from lash_tasks.bench.report import comparison_table, scene_tables

    rows = None if earlier is None else compare(result, earlier)
    if output.as_json:
        output.document({**result, **({} if rows is None else {"comparison": rows})})
        return
    for table in scene_tables(result):
        output.console.print(table, soft_wrap=False)
    if rows is not None:
        output.console.print(comparison_table(rows), soft_wrap=False)
