"""The private engines after `kill -9` of any process: the next user finds both, with all data."""

import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from backend.embedded.private_engines import acquire
from backend.settings import Durability
from tests.support.private_engines import (
    AS_ROOT,
    UserProcess,
    acquired,
    engines_uid,
    eventually,
    find_backend,
    find_postmaster,
    find_processes,
    find_supervisor,
    find_valkey,
    has_both,
    is_alive,
    kill,
    processes_of,
    query_value,
    stopped,
    write_both,
)

pytestmark = pytest.mark.faults


VICTIMS = {
    "supervisor": find_supervisor,
    "postmaster": find_postmaster,
    "backend": find_backend,
    "valkey": find_valkey,
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_acquire_works_immediately_after_kill_9_of_any_process(home: Path, victim: str) -> None:
    """This holds while another user has a share, and while the engines stop; the user need not retry."""
    with acquired(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        kill(VICTIMS[victim](home))
        with acquired(home) as following:
            assert has_both(following, kept)
    engines = acquire(home, Durability.STRICT, postgres=True, valkey=True)
    dying = VICTIMS[victim](home)
    engines.close()
    kill(dying)
    with acquired(home) as following:
        assert has_both(following, kept)


@pytest.mark.parametrize("victim", VICTIMS)
def test_ensure_restarts_what_kill_9_has_ended(home: Path, victim: str) -> None:
    with acquired(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        kill(VICTIMS[victim](home))

        def repaired() -> bool:
            engines.ensure()
            with suppress(Exception):
                return has_both(engines, kept)
            return False

        assert eventually(repaired)


def test_acquire_works_after_kill_9_of_the_supervisor_and_both_engines(home: Path) -> None:
    with acquired(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        for process in [find_supervisor(home), find_postmaster(home), find_valkey(home)]:
            kill(process)
        with acquired(home) as following:
            assert has_both(following, kept)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_engines_end_with_a_killed_supervisor(home: Path) -> None:
    user = UserProcess(home)
    user.answer()
    kill(find_supervisor(home))
    assert eventually(lambda: stopped(home))
    user.end()


@pytest.mark.parametrize("by", ["the last user", "a killed supervisor"])
def test_postgresql_can_be_stopped_during_its_crash_recovery(home: Path, by: str) -> None:
    """A smart or fast shutdown would hang then."""
    user = UserProcess(home)
    user.answer()
    kill(find_backend(home))
    log = home / "log" / "postgres.log"
    assert eventually(lambda: "reinitializing" in log.read_text().rpartition("listening on")[2])
    if by == "a killed supervisor":
        kill(find_supervisor(home))
        assert eventually(lambda: stopped(home))
    user.end()
    assert eventually(lambda: stopped(home))


def test_an_orphaned_backend_is_killed_before_postgresql_is_started_again(home: Path) -> None:
    """A hanging backend keeps the shared memory of the killed postmaster, and a new one would not start."""
    with acquired(home) as engines:
        orphan = find_backend(home)
        orphan.suspend()
        kill(find_postmaster(home))
        with acquired(home):
            assert not is_alive(orphan)
        assert query_value(engines, "SELECT 1") == 1


def test_an_engine_that_outlives_its_supervisor_is_stopped_by_the_next_one(home: Path) -> None:
    """This happens on macOS. Here the engine is suspended while its supervisor is killed."""
    with acquired(home) as engines:
        kept = write_both(engines)
        hanging = find_valkey(home)
        hanging.suspend()
        kill(find_supervisor(home))
        time.sleep(0.1)
        continued = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {hanging.pid}"])
        with acquired(home) as following:
            assert not is_alive(hanging)
            assert has_both(following, kept)
        continued.wait()


def test_a_foreign_process_with_the_pid_of_an_old_postmaster_is_not_killed(home: Path) -> None:
    """After a reboot, an old postmaster.pid can contain the PID of an unrelated process."""
    user = engines_uid()
    other = subprocess.Popen(["sleep", "60"], user=user if AS_ROOT else None)
    (home / "postgres" / "postmaster.pid").write_text(f"{other.pid}\n{home}/postgres\n")
    try:
        with acquired(home, valkey=False) as engines:
            assert query_value(engines, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_acquire_works_after_kill_9_of_random_processes_at_random_moments(home: Path) -> None:
    """The engines may be starting or stopping; the victims include users and child processes of engines."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    dice = random.Random(seed)
    with acquired(home, Durability.STRICT) as engines:
        kept = [write_both(engines)]
    for _ in range(8):
        user = UserProcess(home)
        time.sleep(dice.uniform(0, 0.5))
        if dice.random() < 0.3:
            user.kill()
            time.sleep(dice.uniform(0, 0.3))
        found = processes_of(home)
        for process in dice.sample(found, k=min(len(found), dice.randint(1, 2))):
            kill(process)
        with acquired(home, Durability.STRICT) as engines:
            assert all(has_both(engines, what) for what in kept)
            kept.append(write_both(engines))
        user.kill()


@pytest.mark.parametrize("victim", ["initdb", "backend.embedded.supervisor"])
def test_data_whose_creation_was_interrupted_are_created_again(
    tmp_folder: Path, victim: str
) -> None:
    home = tmp_folder / "home"
    user = UserProcess(home)
    assert eventually(lambda: bool(find_processes("initdb", str(home))))
    for process in find_processes(victim, str(home)):
        kill(process)
    assert not (home / "postgres").exists()
    user.kill()
    with acquired(home) as engines:
        assert query_value(engines, "SELECT current_database()") == "instachat"
    assert not list(home.glob("postgres.new-*"))
