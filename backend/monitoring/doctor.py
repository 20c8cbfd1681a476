"""Doctor: every dependency and setting that can bite, each with what to do about it.

A check gives results; nothing is changed. What concerns searching is in `search_checks`.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from backend.domain.errors import InstaChatError, SchemaMismatch
from backend.monitoring.checks import CheckResult as CheckResult
from backend.monitoring.checks import Severity as Severity
from backend.monitoring.checks import error_result as error_result
from backend.monitoring.checks import ok_result as ok_result
from backend.monitoring.checks import run_check
from backend.monitoring.search_checks import check_elasticsearch, check_search
from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.redis.errors import CommandRefused, RedisError
from backend.storage.redis.log import Log
from backend.storage.redis.memory import MAX_MEMORY_SHARE
from backend.storage.search_index import SearchIndex

MIN_POSTGRES_VERSION = 15
MIN_REDIS_VERSION = (7, 0)
MAX_SYNC_LAG_SECONDS = 3_600.0  # seconds
MAX_CLOCK_SKEW_SECONDS = 1.0  # seconds; workers count as gone after three
LOW_DISK_BYTES = 1 << 30
CRITICAL_DISK_BYTES = 200 << 20


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What is examined. The calls are those that other parts of the program answer."""

    settings: Settings
    database: Database
    log: Log
    index: SearchIndex | None
    queue_length: Callable[[], int]
    durability_faults: Callable[[], list[str] | None]
    sync_lag: Callable[[], float]


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Every check, one after another; those that need an engine which is away are left out."""
    yield from _check_disk_space(context.settings)
    postgres_results = list(_check_postgres(context.database))
    yield from postgres_results
    if not postgres_results[0].unreachable:
        yield from _check_postgres_settings(context)
        yield from run_check("search", lambda: check_search(context.database, context.index))
    redis_results = list(_check_redis(context.log))
    yield from redis_results
    if not redis_results[0].unreachable:
        yield from _check_redis_settings(context)
        yield from run_check("installation", lambda: [_check_installation(context)])
        yield from run_check("clocks", lambda: [_check_clocks(context)])
        yield from run_check("counts in SQL", lambda: [_check_counts(context)])
    if (
        not redis_results[0].unreachable or context.settings.huey_url is not None
    ):  # the same, asked twice
        yield from _check_queue(context)
    if context.index:
        yield from check_elasticsearch(context.index)


# -- the machine ----------------------------------------------------------------------------------


def _check_disk_space(settings: Settings) -> Iterator[CheckResult]:
    if settings.database_url is not None and settings.redis_url is not None:
        return
    folder = settings.home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield CheckResult("disk space", Severity.UNKNOWN, f"{folder}: {error.strerror}")
        return
    message = f"{free / (1 << 30):,.1f} GiB free for the private engines, in {settings.home}"
    if free >= LOW_DISK_BYTES:
        yield ok_result("disk space", message)
    else:
        worst = Severity.ERROR if free < CRITICAL_DISK_BYTES else Severity.WARNING
        yield CheckResult(
            "disk space", worst, message, "make room, or set INSTACHAT_HOME to another disk"
        )


# -- PostgreSQL -----------------------------------------------------------------------------------


def _check_postgres(database: Database) -> Iterator[CheckResult]:
    try:
        with database.connect() as connection:
            number = int(connection.scalar(text("SHOW server_version_num")) or 0)
    except InstaChatError as error:
        yield error_result("PostgreSQL", error)
        return
    found = f"PostgreSQL {number // 10_000}.{number % 10_000} answers"
    if number // 10_000 >= MIN_POSTGRES_VERSION:
        yield ok_result("PostgreSQL", found)
    else:
        yield CheckResult(
            "PostgreSQL",
            Severity.ERROR,
            f"{found}; this program needs {MIN_POSTGRES_VERSION} or newer",
            f"upgrade the server to PostgreSQL {MIN_POSTGRES_VERSION} or newer",
        )


def _check_postgres_settings(context: CheckContext) -> Iterator[CheckResult]:
    database = context.database
    try:
        database.check_schema()
        yield ok_result("schema", "the schema is the one that this program knows")
    except SchemaMismatch as error:
        yield error_result("schema", error)
    with database.connect() as connection:

        def setting(name: str) -> str:
            return str(connection.scalar(text(f"SHOW {name}")))

        off = [name for name in ("fsync", "full_page_writes") if setting(name) != "on"]
        encoding, commit = setting("server_encoding"), setting("synchronous_commit")
    if off:
        yield CheckResult(
            "PostgreSQL's durability",
            Severity.ERROR,
            f"{' and '.join(off)} off: a power loss may destroy what is stored",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf, then reload",
        )
    else:
        message = "fsync and full_page_writes are on"
        if commit == "off":
            message += "; synchronous_commit is off by default, which this program overrides"
        yield ok_result("PostgreSQL's durability", message)
    if encoding == "UTF8":
        yield ok_result("encoding", "the database's encoding is UTF8")
    else:
        yield CheckResult(
            "encoding",
            Severity.ERROR,
            f"the database's encoding is {encoding}: not every text can be stored",
            "create another database with ENCODING 'UTF8' and TEMPLATE template0",
        )


# -- Redis ----------------------------------------------------------------------------------------


def _check_redis(log: Log) -> Iterator[CheckResult]:
    try:
        log.ping()
        nodes = log.server_info("server")
    except CommandRefused as error:
        yield CheckResult(
            "Redis",
            Severity.ERROR,
            f"Redis refuses INFO, without which nothing can be accepted: {error.__cause__}",
            "let its user run INFO: ACL SETUSER … +info",
        )
        return
    except InstaChatError as error:
        yield error_result("Redis", error)
        return
    for node in nodes:
        version = str(node["redis_version"])
        ours = "valkey_version" in node
        found = f"Valkey {node['valkey_version']} answers" if ours else f"Redis {version} answers"
        if tuple(int(part) for part in version.split(".")[:2]) >= MIN_REDIS_VERSION:
            yield ok_result("Redis", found)
        else:
            yield CheckResult(
                "Redis",
                Severity.ERROR,
                f"{found}; this program needs Redis 7.0, or any Valkey",
                "upgrade the server",
            )


def _check_redis_settings(context: CheckContext) -> Iterator[CheckResult]:
    log = context.log
    try:
        log.probe(0)
        yield ok_result("Redis's scripts", "this program's scripts can run")
    except (InstaChatError, RedisError) as error:
        yield CheckResult(
            "Redis's scripts",
            Severity.ERROR,
            f"scripts can't run, and accepting is one: {error}",
            "let its user run them: ACL SETUSER … +@scripting +info, and all commands on instachat:*",
        )
    yield _check_durability(context)
    yield from run_check("Redis's memory", lambda: map(_check_memory, log.server_info("memory")))
    yield from run_check("worker", lambda: [_check_worker(log)])


def _check_worker(log: Log) -> CheckResult:
    if log.paused():
        return CheckResult(
            "worker",
            Severity.WARNING,
            "the job queue is paused: what is accepted stays accepted, and is not stored",
            "`instachat queue resume` lets it go on",
        )
    if running := log.count_workers():
        return ok_result("worker", f"{running} running")
    return CheckResult(
        "worker",
        Severity.WARNING,
        "no worker is running: what is accepted stays accepted, and is not stored",
        "run `instachat worker` (`instachat up` includes one)",
    )


def _check_durability(context: CheckContext) -> CheckResult:
    check, promised = "Redis's durability", f"INSTACHAT_DURABILITY={context.settings.durability}"
    faults = context.durability_faults()
    if faults is None:
        return CheckResult(
            check,
            Severity.UNKNOWN,
            f"could not be evaluated: Redis does not show its settings; {promised} needs appendonly"
            " yes, appendfsync always (fast: everysec), maxmemory-policy noeviction",
            "look at them where this Redis is managed",
        )
    if not faults:
        return ok_result(check, f"{promised} is kept")
    wanted = " ".join(f"{f.split(' is ')[0]} {f.rpartition(', not ')[2]}" for f in faults)
    return CheckResult(
        check,
        Severity.ERROR,
        f"{promised} is not kept: {'; '.join(faults)}",
        f"redis-cli CONFIG SET {wanted}, and the same in its configuration file",
    )


def _check_memory(node: dict[str, Any]) -> CheckResult:
    used, limit = int(node["used_memory"]), int(node.get("maxmemory") or 0)
    if not limit:
        total = int(node.get("total_system_memory") or 0)
        if total and used > total * MAX_MEMORY_SHARE:
            return CheckResult(
                "Redis's memory",
                Severity.WARNING,
                f"{_mib(used)} used, nearly all of the machine's {_mib(total)}, and no limit set",
                "set maxmemory, so that accepting is refused before the machine is out of memory",
            )
        return ok_result("Redis's memory", f"{_mib(used)} used, no limit set")
    message = f"{_mib(used)} of {_mib(limit)} used"
    if used > limit * MAX_MEMORY_SHARE:
        return CheckResult(
            "Redis's memory",
            Severity.ERROR,
            f"{message}: nothing more is accepted beyond {MAX_MEMORY_SHARE:.0%}",
            "see that a worker is running (`instachat status`), or raise maxmemory",
        )
    return ok_result("Redis's memory", message)


# -- together -------------------------------------------------------------------------------------


def _check_installation(context: CheckContext) -> CheckResult:
    """Whether the numbers in this Redis are those of this database."""
    installation = context.database.installation
    found = {context.log.probe(shard).installation for shard in range(installation.shards)} - {""}
    if found - {installation.id}:
        return CheckResult(
            "installation",
            Severity.ERROR,
            "this Redis holds the numbers of another installation (another database)",
            "check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL, or give this database an empty"
            " Redis",
        )
    if not found:
        return ok_result(
            "installation", "this Redis is empty; the first command makes it this database's"
        )
    return ok_result("installation", "this Redis belongs to this database")


def _check_counts(context: CheckContext) -> CheckResult:
    lag = context.sync_lag()
    if lag <= MAX_SYNC_LAG_SECONDS:
        return ok_result("counts in SQL", "follow the live ones within the hour")
    return CheckResult(
        "counts in SQL",
        Severity.WARNING,
        f"SQL has not known a count for {lag / 3600:,.1f} h; what the program answers is right",
        "run `instachat sync-counters`, by cron (see the README) where no worker is running",
    )


def _check_clocks(context: CheckContext) -> CheckResult:
    before = time.time()
    seconds, micros = context.log.server_time()
    middle = (before + time.time()) / 2
    skew = abs(seconds + micros / 1e6 - middle)
    if skew <= MAX_CLOCK_SKEW_SECONDS:
        return ok_result("clocks", "this machine's clock and Redis's agree")
    return CheckResult(
        "clocks",
        Severity.WARNING,
        f"this machine's clock and Redis's are {skew:,.1f} s apart: creation times come from Redis,"
        " and a worker may be taken for one that is gone",
        "synchronise both by NTP",
    )


def _check_queue(context: CheckContext) -> Iterator[CheckResult]:
    try:
        yield ok_result("job queue", f"answers, {context.queue_length():,} jobs wait")
    except InstaChatError as error:
        yield error_result("job queue", error)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
