"""Doctor: every dependency and setting that can bite, each with what to do about it.

A check gives findings; nothing is changed. What concerns searching is in `search_checks`.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from sqlalchemy import text

from backend.domain.errors import InstaChatError, SchemaMismatch
from backend.monitoring.checks import Finding as Finding
from backend.monitoring.checks import Severity as Severity
from backend.monitoring.checks import evaluated
from backend.monitoring.checks import fault as fault
from backend.monitoring.checks import ok as ok
from backend.monitoring.search_checks import elasticsearch, searching
from backend.settings import Settings
from backend.storage.elasticsearch.index import Index
from backend.storage.postgres import Database
from backend.storage.redis.accept import MEMORY_SHARE
from backend.storage.redis.log import Log

OLDEST_POSTGRES = 15
OLDEST_REDIS = (7, 0)
COUNTS_BEHIND = 3_600.0  # seconds
CLOCKS_APART = 1.0  # seconds; workers count as gone after three
LITTLE_SPACE = 1 << 30
NO_SPACE = 200 << 20


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. The calls are those that other parts of the program answer."""

    settings: Settings
    database: Database
    log: Log
    index: Index | None
    queue_length: Callable[[], int]
    durability_faults: Callable[[], list[str] | None]
    sync_lag: Callable[[], float]


def examine(patient: Patient) -> Iterator[Finding]:
    """Every check, one after another; those that need an engine which is away are left out."""
    yield from _home(patient.settings)
    postgres = list(_reach_postgres(patient.database))
    yield from postgres
    if not postgres[0].unreachable:
        yield from _postgres(patient)
        yield from evaluated("search", lambda: searching(patient.database, patient.index))
    cache = list(_reach_redis(patient.log))
    yield from cache
    if not cache[0].unreachable:
        yield from _redis(patient)
        yield from evaluated("installation", lambda: [_belongs(patient)])
        yield from evaluated("clocks", lambda: [_clocks(patient)])
        yield from evaluated("counts in SQL", lambda: [_counts(patient)])
    if not cache[0].unreachable or patient.settings.huey_url is not None:  # the same, asked twice
        yield from _queue(patient)
    if patient.index:
        yield from elasticsearch(patient.index)


# -- the machine ----------------------------------------------------------------------------------


def _home(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is not None and settings.redis_url is not None:
        return
    folder = settings.home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("disk space", Severity.UNKNOWN, f"{folder}: {error.strerror}")
        return
    said = f"{free / (1 << 30):,.1f} GiB free for the private engines, in {settings.home}"
    if free >= LITTLE_SPACE:
        yield ok("disk space", said)
    else:
        worst = Severity.ERROR if free < NO_SPACE else Severity.WARNING
        yield Finding("disk space", worst, said, "make room, or set INSTACHAT_HOME to another disk")


# -- PostgreSQL -----------------------------------------------------------------------------------


def _reach_postgres(database: Database) -> Iterator[Finding]:
    try:
        with database.connect() as connection:
            number = int(connection.scalar(text("SHOW server_version_num")) or 0)
    except InstaChatError as error:
        yield fault("PostgreSQL", error)
        return
    found = f"PostgreSQL {number // 10_000}.{number % 10_000} answers"
    if number // 10_000 >= OLDEST_POSTGRES:
        yield ok("PostgreSQL", found)
    else:
        yield Finding(
            "PostgreSQL",
            Severity.ERROR,
            f"{found}; this program needs {OLDEST_POSTGRES} or newer",
            f"upgrade the server to PostgreSQL {OLDEST_POSTGRES} or newer",
        )


def _postgres(patient: Patient) -> Iterator[Finding]:
    database = patient.database
    try:
        database.check_schema()
        yield ok("schema", "the schema is the one that this program knows")
    except SchemaMismatch as error:
        yield fault("schema", error)
    with database.connect() as connection:

        def setting(name: str) -> str:
            return str(connection.scalar(text(f"SHOW {name}")))

        off = [name for name in ("fsync", "full_page_writes") if setting(name) != "on"]
        encoding, commit = setting("server_encoding"), setting("synchronous_commit")
    if off:
        yield Finding(
            "PostgreSQL's durability",
            Severity.ERROR,
            f"{' and '.join(off)} off: a power loss may destroy what is stored",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf, then reload",
        )
    else:
        said = "fsync and full_page_writes are on"
        if commit == "off":
            said += "; synchronous_commit is off by default, which this program overrides"
        yield ok("PostgreSQL's durability", said)
    if encoding == "UTF8":
        yield ok("encoding", "the database's encoding is UTF8")
    else:
        yield Finding(
            "encoding",
            Severity.ERROR,
            f"the database's encoding is {encoding}: not every text can be stored",
            "create another database with ENCODING 'UTF8' and TEMPLATE template0",
        )


# -- Redis ----------------------------------------------------------------------------------------


def _reach_redis(log: Log) -> Iterator[Finding]:
    try:
        log.ping()
        nodes = _info(log, "server")
    except InstaChatError as error:
        yield fault("Redis", error)
        return
    except redis.RedisError as error:
        yield Finding(
            "Redis",
            Severity.ERROR,
            f"Redis refuses INFO, without which nothing can be accepted: {error}",
            "let its user run INFO: ACL SETUSER … +info",
        )
        return
    for node in nodes:
        version = str(node["redis_version"])
        ours = "valkey_version" in node
        found = f"Valkey {node['valkey_version']} answers" if ours else f"Redis {version} answers"
        if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS:
            yield ok("Redis", found)
        else:
            yield Finding(
                "Redis",
                Severity.ERROR,
                f"{found}; this program needs Redis 7.0, or any Valkey",
                "upgrade the server",
            )


def _redis(patient: Patient) -> Iterator[Finding]:
    log = patient.log
    try:
        log.probe(0)
        yield ok("Redis's scripts", "this program's scripts can run")
    except (InstaChatError, redis.RedisError) as error:
        yield Finding(
            "Redis's scripts",
            Severity.ERROR,
            f"scripts can't run, and accepting is one: {error}",
            "let its user run them: ACL SETUSER … +@scripting +info, and all commands on instachat:*",
        )
    yield _durability(patient)
    yield from evaluated("Redis's memory", lambda: map(_memory, _info(log, "memory")))
    yield from evaluated("worker", lambda: [_worker(log)])


def _worker(log: Log) -> Finding:
    if log.paused():
        return Finding(
            "worker",
            Severity.WARNING,
            "the job queue is paused: what is accepted stays accepted, and is not stored",
            "`instachat queue resume` lets it go on",
        )
    if running := log.workers():
        return ok("worker", f"{running} running")
    return Finding(
        "worker",
        Severity.WARNING,
        "no worker is running: what is accepted stays accepted, and is not stored",
        "run `instachat worker` (`instachat up` includes one)",
    )


def _durability(patient: Patient) -> Finding:
    check, promised = "Redis's durability", f"INSTACHAT_DURABILITY={patient.settings.durability}"
    faults = patient.durability_faults()
    if faults is None:
        return Finding(
            check,
            Severity.UNKNOWN,
            f"could not be evaluated: Redis does not show its settings; {promised} needs appendonly"
            " yes, appendfsync always (fast: everysec), maxmemory-policy noeviction",
            "look at them where this Redis is managed",
        )
    if not faults:
        return ok(check, f"{promised} is kept")
    wanted = " ".join(f"{f.split(' is ')[0]} {f.rpartition(', not ')[2]}" for f in faults)
    return Finding(
        check,
        Severity.ERROR,
        f"{promised} is not kept: {'; '.join(faults)}",
        f"redis-cli CONFIG SET {wanted}, and the same in its configuration file",
    )


def _memory(node: dict[str, Any]) -> Finding:
    used, limit = int(node["used_memory"]), int(node.get("maxmemory") or 0)
    if not limit:
        total = int(node.get("total_system_memory") or 0)
        if total and used > total * MEMORY_SHARE:
            return Finding(
                "Redis's memory",
                Severity.WARNING,
                f"{_mib(used)} used, nearly all of the machine's {_mib(total)}, and no limit set",
                "set maxmemory, so that accepting is refused before the machine is out of memory",
            )
        return ok("Redis's memory", f"{_mib(used)} used, no limit set")
    said = f"{_mib(used)} of {_mib(limit)} used"
    if used > limit * MEMORY_SHARE:
        return Finding(
            "Redis's memory",
            Severity.ERROR,
            f"{said}: nothing more is accepted beyond {MEMORY_SHARE:.0%}",
            "see that a worker is running (`instachat status`), or raise maxmemory",
        )
    return ok("Redis's memory", said)


# -- together -------------------------------------------------------------------------------------


def _belongs(patient: Patient) -> Finding:
    """Whether the numbers in this Redis are those of this database."""
    installation = patient.database.installation
    found = {patient.log.probe(shard).installation for shard in range(installation.shards)} - {""}
    if found - {installation.id}:
        return Finding(
            "installation",
            Severity.ERROR,
            "this Redis holds the numbers of another installation (another database)",
            "check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL, or give this database an empty"
            " Redis",
        )
    if not found:
        return ok("installation", "this Redis is empty; the first command makes it this database's")
    return ok("installation", "this Redis belongs to this database")


def _counts(patient: Patient) -> Finding:
    lag = patient.sync_lag()
    if lag <= COUNTS_BEHIND:
        return ok("counts in SQL", "follow the live ones within the hour")
    return Finding(
        "counts in SQL",
        Severity.WARNING,
        f"SQL has not known a count for {lag / 3600:,.1f} h; what the program answers is right",
        "run `instachat sync-counters`, by cron (see the README) where no worker is running",
    )


def _clocks(patient: Patient) -> Finding:
    before = time.time()
    seconds, micros = _time(patient.log)
    middle = (before + time.time()) / 2
    apart = abs(seconds + micros / 1e6 - middle)
    if apart <= CLOCKS_APART:
        return ok("clocks", "this machine's clock and Redis's agree")
    return Finding(
        "clocks",
        Severity.WARNING,
        f"this machine's clock and Redis's are {apart:,.1f} s apart: creation times come from Redis,"
        " and a worker may be taken for one that is gone",
        "synchronise both by NTP",
    )


def _queue(patient: Patient) -> Iterator[Finding]:
    try:
        yield ok("job queue", f"answers, {patient.queue_length():,} jobs wait")
    except redis.RedisError as error:
        yield Finding(
            "job queue",
            Severity.ERROR,
            f"the job queue's Redis can't be used: {error}",
            "check INSTACHAT_HUEY_URL (unset: INSTACHAT_REDIS_URL)",
            unreachable=isinstance(error, redis.ConnectionError | redis.TimeoutError),
        )


def _info(log: Log, section: str) -> list[dict[str, Any]]:
    """A section of INFO, of each node."""
    found: Any = log.redis.info(section)
    nodes = list(found.values())
    return nodes if nodes and isinstance(nodes[0], dict) else [found]


def _time(log: Log) -> tuple[int, int]:
    found: Any = log.redis.time()
    seconds, micros = next(iter(found.values())) if isinstance(found, dict) else found
    return seconds, micros


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
