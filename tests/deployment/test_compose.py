"""docker-compose.yml: Compose can read it, and each service's command and health check work when started by hand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.cli.calling import ROOT, run
from tests.deployment.compose import FILE, Service, read
from tests.endpoint import ModelEndpoint
from tests.services import free_port, wait_until

START_SECONDS = 60.0
LASTING = {"turns", "processes", "beat", "flower"}
SERVERS = {"postgres", "redis"}

Build = Callable[[str], Service]
Outcome = TypeVar("Outcome")


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    with ModelEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def service(tmp_path: Path, postgres_url: str, redis_url: str, endpoint: ModelEndpoint) -> Iterator[Build]:
    """A service of the file by its name, over this machine's servers and with the local model endpoint."""
    definitions = read({"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "sk-test"})
    places = {
        "postgresql+psycopg://lash:lash@postgres:5432/lash": postgres_url,
        "redis://redis:6379/0": redis_url,
        "/tmp/": f"{tmp_path}/",
        "5555": str(free_port()),
    }
    built: dict[str, Service] = {}

    def build(name: str) -> Service:
        # In a container the node is named for its host; here two would share one. Beat is to say what it sends.
        more = {"turns": ("-n", f"celery@{name}"), "processes": ("-n", f"celery@{name}"), "beat": ("-l", "INFO")}
        if name not in built:
            built[name] = Service(name, definitions[name], tmp_path, places, more.get(name, ()))
        return built[name]

    yield build
    for one in built.values():
        one.kill()


def test_compose_reads_the_file() -> None:
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose: there is none; install Debian's package docker-compose")
    checked = subprocess.run([compose, "-f", str(FILE), "config", "-q"], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_lasting_service_has_a_health_check_and_waits_for_what_it_needs() -> None:
    services = read({})

    assert set(services) == {*SERVERS, *LASTING, "migrate"}
    for name in LASTING | SERVERS:
        assert services[name]["healthcheck"]["test"], name
    for name in LASTING:
        needs = {one: value["condition"] for one, value in services[name]["depends_on"].items()}
        assert needs == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }


def test_an_application_of_one_s_own_is_named_once() -> None:
    services = read({"LASH_APP": "shop"})

    for name in LASTING:
        assert "-A shop " in services[name]["command"]
        assert services[name]["environment"]["LASH_APP"] == "shop"


@pytest.mark.timeout(240)
def test_the_services_started_by_hand_answer_and_stop(service: Build, endpoint: ModelEndpoint) -> None:
    migrate = service("migrate").run()
    assert migrate.returncode == 0, migrate.stderr

    services = [service(name) for name in sorted(LASTING)]
    assert not any(_at_once(Service.healthy, services)), "nothing is healthy before it runs"
    for one in services:
        one.start()
    _at_once(_wait_until_healthy, services)

    question = ("send", "customer-7", "Where is order 12?", "--agent", "support", "--wait", "--timeout", "30", "--json")
    turn = run(*question, cwd=None, **_settings(services[0])).document
    assert turn["assistant_output"]["safe_text"] == "answer: Where is order 12?"
    assert [call["tool"] for call in turn["tool_calls"]] == ["lookup_order"]
    assert len(endpoint.requests) == 2
    assert run("doctor", "--json", cwd=None, **_settings(services[0])).document["ok"]
    wait_until(lambda: "Sending due task lash-sweep" in service("beat").text(), 20, "beat to tick")

    codes = _at_once(Service.stop, services)
    failed = [one for one, code in zip(services, codes, strict=True) if code and not _was_saving_its_schedule(one)]
    assert not failed, [one.text()[-2000:] for one in failed]
    assert not any(_at_once(Service.healthy, services))


def _at_once(action: Callable[[Service], Outcome], services: Sequence[Service]) -> list[Outcome]:
    """A health check of a worker that is not there takes five seconds."""
    with ThreadPoolExecutor(len(services)) as pool:
        return list(pool.map(action, services))


def _wait_until_healthy(one: Service) -> None:
    wait_until(lambda: _healthy(one), START_SECONDS, f"{one.name} to be healthy")


def _healthy(one: Service) -> bool:
    assert one.alive, one.text()[-3000:]
    return one.healthy()


def _was_saving_its_schedule(one: Service) -> bool:
    """Celery's beat closes its schedule where a signal finds it; if it was just writing that, it ends with an error."""
    return one.name == "beat" and "invalid operation on closed shelf" in one.text()


def _settings(one: Service) -> dict[str, str]:
    return {name: one.environment[name] for name in ("LASH_DATABASE_URL", "LASH_REDIS_URL")}


@pytest.mark.skipif(shutil.which("pg_isready") is None, reason="PostgreSQL's client programs are not on the path")
def test_the_health_check_of_postgres(tmp_path: Path, postgres_url: str) -> None:
    server = urlsplit(postgres_url)
    check = Service("postgres", _at_port(read({})["postgres"], "pg_isready", f"-p {server.port}"), tmp_path, {})
    silent = Service("postgres", _at_port(read({})["postgres"], "pg_isready", f"-p {free_port()}"), tmp_path, {})

    assert check.healthy()
    assert not silent.healthy()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not on the path")
def test_the_command_and_the_health_check_of_redis(tmp_path: Path) -> None:
    definition, port = read({})["redis"], free_port()
    redis = Service("redis", _at_port(definition, "redis-cli", f"-p {port}"), tmp_path, {}, ("--port", str(port)))
    assert not redis.healthy()
    redis.start()
    try:
        wait_until(redis.healthy, START_SECONDS, "redis to be healthy")
        assert redis.stop() == 0
    finally:
        redis.kill()


def _at_port(definition: dict[str, Any], program: str, option: str) -> dict[str, Any]:
    """The definition with a health check that asks at another port: its own may belong to somebody here."""
    check = definition["healthcheck"]["test"].replace(program, f"{program} {option}", 1)
    return {**definition, "healthcheck": {"test": check}}


def test_the_image_is_given_all_that_its_installation_needs(tmp_path: Path) -> None:
    """The build itself needs an engine; that what is copied can be built into a wheel needs none."""
    context, image = ROOT, tmp_path / "build"
    image.mkdir()
    recipe = (ROOT / "Dockerfile").read_text().splitlines()
    before_install = recipe[: next(number for number, line in enumerate(recipe) if line.startswith("RUN pip install"))]
    for line in before_install:
        if not line.startswith("COPY"):
            continue
        *sources, destination = line.split()[1:]
        for source in sources:
            if (context / source).is_dir():
                shutil.copytree(context / source, image / destination, symlinks=True)
            else:
                shutil.copy(context / source, image / destination)
    built = subprocess.run(
        ["python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(image)],
        env=Service("build", {}, tmp_path, {}).environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stdout + built.stderr
    assert list(tmp_path.glob("lash_tasks-*.whl"))
