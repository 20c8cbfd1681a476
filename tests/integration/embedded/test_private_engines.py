"""Shares in the private engines: the first user starts them, the last one stops them."""

import fcntl
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy

from backend.embedded.home import Layout
from backend.embedded.locks import try_lock
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.settings import Durability
from tests.support.private_engines import (
    CODE,
    UserProcess,
    acquired,
    eventually,
    find_postmaster,
    find_processes,
    find_supervisor,
    find_valkey,
    has_both,
    is_alive,
    kill,
    query_value,
    redis_client,
    sql,
    stopped,
    write_both,
)

pytestmark = pytest.mark.faults


def test_the_first_user_of_an_empty_home_starts_both_engines(tmp_folder: Path) -> None:
    with acquired(tmp_folder / "new" / "home") as engines:
        assert query_value(engines, "SELECT current_database()") == "instachat"
        assert redis_client(engines).ping()


def test_engines_run_with_the_settings_that_durability_and_isolation_require(home: Path) -> None:
    """The locale never varies, writes reach the disk, and no network port is open. Valkey takes half of the
    memory at most, and evicts nothing.
    """
    with acquired(home, Durability.STRICT) as engines:
        with sql(engines) as connection:
            shown = {
                name: connection.execute(sqlalchemy.text(f"SHOW {name}")).scalar()
                for name in (
                    *("server_encoding", "fsync", "synchronous_commit", "full_page_writes"),
                    *("listen_addresses", "unix_socket_permissions", "jit", "max_connections"),
                    "track_commit_timestamp",
                )
            }
            locale = connection.execute(
                sqlalchemy.text(
                    "SELECT datlocprovider, datlocale FROM pg_database"
                    " WHERE datname = current_database()"
                )
            ).one()
        assert shown == {
            "server_encoding": "UTF8",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "jit": "off",
            "track_commit_timestamp": "on",
            "max_connections": "200",
        }
        assert tuple(locale) == ("b", "C.UTF-8")
        wanted = {
            "port": "0",
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        client = redis_client(engines)
        assert client.config_get(*wanted) == wanted
        memory = client.info("memory")
        assert 0 < memory["maxmemory"] <= memory["total_system_memory"] / 2
        listening = find_postmaster(home).net_connections("inet") + find_valkey(
            home
        ).net_connections("inet")
        assert not listening


def test_a_second_user_shares_the_running_engines(home: Path) -> None:
    with acquired(home) as first:
        pids = (find_supervisor(home).pid, find_postmaster(home).pid, find_valkey(home).pid)
        with acquired(home) as second:
            assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
            assert (
                find_supervisor(home).pid,
                find_postmaster(home).pid,
                find_valkey(home).pid,
            ) == pids


def test_joining_running_engines_starts_no_process_and_does_not_sleep(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with acquired(home) as engines:
        monkeypatch.setattr(subprocess, "Popen", _never)
        monkeypatch.setattr(time, "sleep", _never)
        for _ in range(10):
            acquire(home, Durability.FAST, postgres=True, valkey=True).close()
            engines.ensure()
        monkeypatch.undo()


def _never(*_: object, **__: object) -> None:
    pytest.fail("a process was started, or the call slept")


def test_the_engines_stop_when_the_last_user_releases_its_share(home: Path) -> None:
    first = acquire(home, Durability.FAST, postgres=True, valkey=True)
    with acquired(home):
        first.close(wait=True)
        time.sleep(0.3)
        assert not stopped(home)
    assert stopped(home)


def test_kill_9_of_a_user_releases_its_share(home: Path) -> None:
    user = UserProcess(home)
    user.answer()
    assert not stopped(home)
    user.kill()
    assert eventually(lambda: stopped(home))


def test_a_child_process_of_a_user_does_not_hold_its_share(home: Path) -> None:
    with acquired(home):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert stopped(home)
    finally:
        child.kill()
        child.wait()


def test_a_user_that_arrives_during_a_stop_starts_the_engines_again_with_their_data(
    home: Path,
) -> None:
    with acquired(home) as engines:
        kept = write_both(engines)
    for pause in (0.0, 0.02, 0.1, 0.12, 0.15, 0.2):
        engines = acquire(home, Durability.FAST, postgres=True, valkey=True)
        assert has_both(engines, kept)
        engines.close()
        time.sleep(pause)
    assert eventually(lambda: stopped(home))


def test_no_user_can_join_engines_that_are_stopping(home: Path) -> None:
    engines = acquire(home, Durability.FAST, postgres=False, valkey=True)
    stopping, users_lock = find_valkey(home), Layout.of(home).users_lock
    stopping.suspend()
    try:
        engines.close()
        assert eventually(lambda: _is_closed(users_lock))
    finally:
        stopping.resume()
    with acquired(home, postgres=False) as following:
        assert redis_client(following).ping()
        assert not is_alive(stopping)


def _is_closed(lock: Path) -> bool:
    """Whether no user can join any more."""
    if (joined := try_lock(lock, fcntl.LOCK_SH)) is None:
        return True
    os.close(joined)
    return False


def test_processes_that_start_together_on_an_empty_home_share_the_same_engines(
    tmp_folder: Path,
) -> None:
    users = [UserProcess(tmp_folder / "home") for _ in range(3)]
    answers = [user.answer() for user in users]
    assert answers[0][0].startswith("postgresql+psycopg2://")
    assert answers == [answers[0]] * 3
    find_supervisor(tmp_folder / "home")
    find_postmaster(tmp_folder / "home")
    for user in users:
        user.end()


def test_threads_of_one_process_can_acquire_shares_concurrently(home: Path) -> None:
    def use(_: int) -> bool:
        with acquire(home, Durability.FAST, postgres=True, valkey=True) as engines:
            return bool(redis_client(engines).ping()) and query_value(engines, "SELECT 1") == 1

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(24)))
    assert eventually(lambda: stopped(home))


def test_a_user_of_valkey_starts_only_valkey(tmp_folder: Path) -> None:
    home = tmp_folder / "home"
    with acquired(home, postgres=False) as engines:
        assert engines.database_url is None
        assert redis_client(engines).ping()
        assert not find_processes("postgres -D", str(home))
        assert not (home / "postgres").exists()


def test_a_user_of_postgresql_starts_only_postgresql(home: Path) -> None:
    with acquired(home, valkey=False) as engines:
        assert engines.redis_url is None
        assert query_value(engines, "SELECT 1") == 1
        assert not find_processes("valkey-server", str(home))


def test_a_user_of_no_engine_starts_nothing_and_creates_no_home(tmp_folder: Path) -> None:
    with acquired(tmp_folder / "home", postgres=False, valkey=False) as engines:
        assert (engines.database_url, engines.redis_url) == (None, None)
        engines.ensure()
    assert not (tmp_folder / "home").exists()


def test_a_running_engine_keeps_running_when_the_other_one_is_started(home: Path) -> None:
    with acquired(home, postgres=False):
        running = find_valkey(home).pid
        with acquired(home, valkey=False) as second:
            assert query_value(second, "SELECT 1") == 1
            assert find_valkey(home).pid == running


def _fsync(engines: PrivateEngines) -> str:
    return str(redis_client(engines).config_get("appendfsync")["appendfsync"])


def test_a_strict_user_makes_a_running_valkey_sync_every_write_from_then_on(home: Path) -> None:
    with acquired(home, Durability.FAST, postgres=False) as fast:
        assert _fsync(fast) == "everysec"
        running = find_valkey(home)
        with acquired(home, Durability.STRICT, postgres=False) as strict:
            assert _fsync(strict) == "always"
            assert is_alive(running)
        assert _fsync(fast) == "always"
        kill(running)
        with acquired(home, Durability.FAST, postgres=False) as later:
            assert _fsync(later) == "always"
            # from its first answer on, not by a later command
            assert "always" in find_valkey(home).cmdline()


def test_a_fast_user_does_not_lower_the_durability_of_a_strict_user(home: Path) -> None:
    with acquired(home, Durability.STRICT, postgres=False) as strict:
        with acquired(home, Durability.FAST, postgres=False) as fast:
            assert _fsync(fast) == "always"
        kill(find_valkey(home))
        with acquired(home, Durability.FAST, postgres=False):
            assert _fsync(strict) == "always"


def test_importing_private_engines_loads_no_heavy_module() -> None:
    """Every command imports the module, including those that need no private engine."""
    heavy = {"psutil", "psycopg2", "redis", "sqlalchemy", "pydantic", "subprocess", "asyncio"}
    script = "import sys, backend.embedded.private_engines; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=CODE, capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(loaded.split())
