"""`lash-tasks bench --quick`, for real: workers, servers, endpoint and control, in a database of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from tests.bench.test_figures import result, scene
from tests.cli.calling import call, run

CLOSED_LOOPS, ALL = {"saturated", "delayed"}, {"saturated", "delayed", "idle", "history", "wal", "takeover"}
LATENCIES = {"p50_ms", "p95_ms", "p99_ms"}
PROCESSORS = {
    "cpu_s_per_1000_turns",
    *(f"cpu_{group}_s_per_1000_turns" for group in ("workers", "postgres", "redis", "endpoint", "driver")),
}
FIGURES = {"turns_per_s", "in_flight", "transactions_per_turn", "wal_bytes_per_turn", *LATENCIES, *PROCESSORS}
OTHERS = {
    "history": {
        *(f"prior_{prior}_{how}_p50_ms" for prior in (0, 30) for how in ("warm", "cold")),
        "warm_longest_to_shortest",
    },
    "wal": {
        f"prior_{prior}_{figure}"
        for prior in (0, 30)
        for figure in ("wal_bytes_per_turn", "transactions_per_turn", "turns_per_s", "turns")
    },
    "takeover": {"kill_to_answer_median_ms", "kill_to_answer_max_ms", "lease_ttl_ms"},
}


def databases(postgres_url: str) -> set[str]:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'lash_bench_%'").fetchall()
    return {name for (name,) in rows}


def test_every_scene_yields_every_figure_and_leaves_nothing_behind(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"

    printed = run(
        *("bench", "--quick", "--json", "--out", str(out)), LASH_DATABASE_URL=postgres_url, LASH_REDIS_URL=redis_url
    )

    assert printed.exit_code == 0, printed
    found = printed.document
    assert json.loads(out.read_text()) == found
    (scenes,) = found["runs"]
    assert set(scenes) == set(found["medians"]) == ALL
    for name, one in scenes.items():
        _check_scene(name, one)
    assert found["postgres"]["full_page_writes"] in ("on", "off")
    assert found["postgres"]["database"] not in databases(postgres_url)
    with Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def _check_scene(name: str, one: dict[str, Any]) -> None:
    assert set(one["figures"]) == OTHERS.get(name, FIGURES)
    assert one["turns"] > 0
    assert one["seconds"] > 0
    assert all(value is None or value >= 0 for value in one["figures"].values()), one["figures"]
    assert len(one["controls"]) == 2
    assert set(one["control"]) == FIGURES
    assert isinstance(one["valid"], bool)
    if name not in OTHERS:
        assert set(one["ratio"]) == {"turns_per_s", "cpu_s_per_1000_turns", *LATENCIES}
    if name == "delayed":  # two calls of 50 ms in every turn, ours and the control's
        assert one["figures"]["p50_ms"] > 100
        assert one["control"]["p50_ms"] > 100


def test_a_result_is_shown_again_and_compared_without_running_anything(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(result(scene(40))))
    new.write_text(json.dumps(result(scene(50))))

    for_a_person = call("bench", "--show", str(new), "--vs", str(old)).stdout
    (row, _) = call("bench", "--show", str(new), "--vs", str(old), "--json").document["comparison"]

    assert "now / before" in for_a_person
    assert (row["figure"], row["change"]) == ("turns_per_s", 1.25)


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lash_tasks.cli.bench.find_spec", lambda name: None)
    assert call("bench", "--json").error["message"].endswith("pip install lash-tasks[bench]")


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["sleeping"], {}, "there is no scene 'sleeping'"),
        ([], {}, "Set LASH_DATABASE_URL"),
        ([], {"LASH_DATABASE_URL": "sqlite:///lash.db"}, "set LASH_DATABASE_URL to postgresql://"),
        ([], {"LASH_DATABASE_URL": "postgresql://127.0.0.1/x"}, "Set LASH_REDIS_URL"),
        (
            [],
            {"LASH_DATABASE_URL": "postgresql://127.0.0.1/x", "LASH_REDIS_URL": "redis://127.0.0.1:1/0"},
            "LASH_REDIS_URL: ",
        ),
    ],
)
def test_what_it_cannot_run_on_is_refused_in_a_sentence(
    arguments: list[str], variables: dict[str, str], says: str
) -> None:
    assert says in call("bench", *arguments, "--json", **variables).error["message"]


def test_a_user_that_may_make_no_database_is_told_what_to_do(postgres_url: str, redis_url: str) -> None:
    plain = postgres_url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE ROLE lash_test_bench_guest LOGIN")
        try:
            guest = plain.replace("postgres@", "lash_test_bench_guest@", 1)
            error = call("bench", "--json", LASH_DATABASE_URL=guest, LASH_REDIS_URL=redis_url).error
        finally:
            connection.execute("DROP ROLE lash_test_bench_guest")
    assert "CREATEDB" in error["message"]


def test_a_redis_database_with_something_in_it_is_left_alone(postgres_url: str, redis_url: str) -> None:
    from lash_tasks.bench.places import bench_redis

    with Redis.from_url(redis_url) as client:
        client.set("somebody's", "key")
        with bench_redis(redis_url) as other:
            assert other != redis_url
        assert client.keys() == [b"somebody's"]
