"""The wheel claims one top-level name, `lash_tasks`, and lives beside other people's `stores` and `beat_schedule`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]

IMPORT_EVERYTHING = """
import json, beat_schedule, stores, stores.models
import lash_tasks.beat_schedule, lash_tasks.stores.sql.tables
print(json.dumps({
    "foreign": [stores.models.MINE, beat_schedule.MINE],
    "files": [beat_schedule.__file__, stores.__file__, lash_tasks.__file__, lash_tasks.beat_schedule.__file__,
              lash_tasks.stores.sql.tables.__file__],
    "tables": len(lash_tasks.stores.sql.tables.metadata.tables),
    "schedule": len(lash_tasks.beat_schedule.BEAT_SCHEDULE),
}))
"""

IMPORT_WITH = """
import importlib, sys
from importlib.metadata import packages_distributions
installed, allowed = packages_distributions(), set(sys.argv[1].split())

class Uninstalled:
    def find_spec(self, name, path=None, target=None):
        owners = {owner.lower().replace("_", "-") for owner in installed.get(name.partition(".")[0], ())}
        if owners and not owners & allowed:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Uninstalled())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def build(output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), *options, str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of this checkout and the wheel that was built from that sdist."""
    output = tmp_path_factory.mktemp("dist")
    build(output)
    return output


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [path] = distributions.glob("*.whl")
    return path


def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {member.split("/")[0] for member in members(wheel)}
    assert {name for name in names if not name.endswith(".dist-info")} == {"lash_tasks"}


def test_every_module_of_the_checkout_is_in_the_wheel_once(wheel: Path) -> None:
    package = REPOSITORY / "lash_tasks"
    expected = {
        str(Path("lash_tasks", Path(folder).relative_to(package), file))
        for folder, _, files in os.walk(package, followlinks=True)
        for file in files
        if file.endswith(".py")
    }
    modules = [member for member in members(wheel) if member.endswith(".py")]
    assert {"lash_tasks/beat_schedule.py", "lash_tasks/stores/sql/tables.py"} <= expected
    assert sorted(expected) == modules
    assert "lash_tasks/py.typed" in members(wheel)


def test_the_wheel_is_the_same_from_the_checkout_and_from_the_sdist(wheel: Path, tmp_path: Path) -> None:
    build(tmp_path, "--wheel")
    [direct] = tmp_path.glob("*.whl")
    assert members(direct) == members(wheel)


def test_neither_wheel_nor_sdist_holds_a_link(distributions: Path, wheel: Path) -> None:
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not member.isfile()] == []
    with zipfile.ZipFile(wheel) as zipped:
        assert [info.filename for info in zipped.infolist() if (info.external_attr >> 16) & 0o170000 == 0o120000] == []


def test_it_works_beside_a_foreign_stores_and_a_foreign_beat_schedule(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)

    project = tmp_path / "project"
    (project / "stores").mkdir(parents=True)
    (project / "stores" / "__init__.py").touch()
    (project / "stores" / "models.py").write_text("MINE = 'a shop'")
    (project / "beat_schedule.py").write_text("MINE = 'a drum'")

    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    seen = json.loads(result.stdout)
    assert seen["foreign"] == ["a shop", "a drum"]
    assert [Path(file).is_relative_to(project) for file in seen["files"]] == [True, True, False, False, False]
    assert [Path(file).is_relative_to(site) for file in seen["files"]] == [False, False, True, True, True]
    assert seen["tables"] > 0
    assert seen["schedule"] > 0


def what_pip_installs(name: str) -> set[str]:
    """The distribution and all that it requires, without anybody's extras."""
    found: set[str] = set()
    pending = [name]
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        wanted = [Requirement(line) for line in requires]
        pending += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_a_plain_installation_can_talk_to_the_brokers_and_databases(wheel: Path) -> None:
    """kombu's Redis transport imports `packaging`, which celery does not require: workers of a fresh venv died."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    wanted = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    plain = [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    allowed = {"lash-tasks"}.union(*map(what_pip_installs, plain))
    modules = ["kombu.transport.redis", "kombu.transport.pyamqp", "celery.bin.celery", "lash_tasks.cli.main"]
    modules += ["lash_tasks.wiring", "lash_tasks.stores.sql.engine", "alembic.command"]
    command = [sys.executable, "-c", IMPORT_WITH, " ".join(sorted(allowed)), *modules]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert result.returncode == 0, result.stderr
