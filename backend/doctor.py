"""Doctor: every dependency and setting that can bite, each with what to do about it.

A check gives findings: what was looked at, how bad it is, and the remedy. "Could not be evaluated" is a
finding of its own (`unknown`): what a check can't see, it does not call well. Nothing is changed.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import redis
from sqlalchemy import text

from backend.errors import EngineDown, InstaChatError, SchemaMismatch
from backend.index import MAPPING, Index
from backend.log import MEMORY_SHARE, Log
from backend.settings import Settings, redacted
from backend.sql import Database, indices, outbox

OLDEST_POSTGRES = 15
OLDEST_REDIS = (7, 0)
OLDEST_ELASTICSEARCH = (8, 19)
UNPUBLISHED_SECONDS = 60.0  # what waits for longer, waits for somebody to look
LOCAL = {"localhost", "127.0.0.1", "::1"}
COUNTS_BEHIND = 3_600.0  # seconds
CLOCKS_APART = 1.0  # seconds; workers count as gone after three
LITTLE_SPACE = 1 << 30
NO_SPACE = 200 << 20


class Severity(StrEnum):
    """How bad a finding is; `unknown` could not be evaluated."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `unreachable` if the cause is a dependency that does not answer."""

    check: str
    severity: Severity
    message: str
    remedy: str | None = None
    unreachable: bool = False


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
        yield from _evaluated("search", lambda: _searching(patient))
    cache = list(_reach_redis(patient.log))
    yield from cache
    if not cache[0].unreachable:
        yield from _redis(patient)
        yield from _evaluated("installation", lambda: [_belongs(patient)])
        yield from _evaluated("clocks", lambda: [_clocks(patient)])
        yield from _evaluated("counts in SQL", lambda: [_counts(patient)])
    if not cache[0].unreachable or patient.settings.huey_url is not None:  # the same, asked twice
        yield from _queue(patient)
    if patient.index:
        yield from _elasticsearch(patient.index)


def fault(check: str, error: InstaChatError) -> Finding:
    """The finding that an error stands for."""
    away = isinstance(error, EngineDown)
    return Finding(check, Severity.ERROR, error.message, error.hint, unreachable=away)


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Severity.OK, message)


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
    yield from _evaluated("Redis's memory", lambda: map(_memory, _info(log, "memory")))
    yield from _evaluated("worker", lambda: [_worker(log)])


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


# -- Elasticsearch --------------------------------------------------------------------------------


def _elasticsearch(index: Index) -> Iterator[Finding]:
    yield _security(index)
    check = "Elasticsearch"
    try:
        version = index.version()
    except InstaChatError as error:
        yield fault(check, error)
        return
    if version == "unknown":
        yield Finding(
            check,
            Severity.UNKNOWN,
            "answers; its version could not be evaluated: who asks may not monitor the cluster",
            "give its user or API key the cluster privilege `monitor`",
        )
    elif tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_ELASTICSEARCH:
        yield ok(check, f"Elasticsearch {version} answers")
    else:
        yield Finding(
            check,
            Severity.ERROR,
            f"Elasticsearch {version} answers; this program needs 8.19 or newer",
            "upgrade it to Elasticsearch 8.19 or 9",
        )


def _security(index: Index) -> Finding:
    check, url = "Elasticsearch's security", urlsplit(index.url)
    if url.scheme == "https" or url.hostname in LOCAL:
        return ok(check, "people's texts do not cross the network in the clear")
    return Finding(
        check,
        Severity.WARNING,
        f"{redacted(index.url)} is not TLS: people's texts and the password cross the network in the"
        " clear",
        "use https:// unless that network is yours alone; INSTACHAT_ELASTICSEARCH_CA_FILE names a private"
        " authority",
    )


def _searching(patient: Patient) -> Iterator[Finding]:
    """Whether what is stored gets into an index, and searches may read it."""
    with patient.database.connect() as connection:
        kept = indices.indices(connection)
        live = indices.live_index(connection)
        blank = indices.is_blank(connection)
        publishing = outbox.publishing(connection)
        lag = outbox.lag(connection)
    if patient.index is None:
        yield _without_index(publishing, lag)
        return
    if live is None:
        yield (
            ok("search index", "there is no message yet; the first command makes the index")
            if blank
            else Finding(
                "search index",
                Severity.ERROR,
                "there are messages and no index of them: searches are refused",
                "run `instachat reindex`; searches go on as soon as it is done",
            )
        )
        return
    yield from _kept(patient.index, live)
    if len(kept) > 1:
        others = ", ".join(f"{one.name} ({one.state})" for one in kept if one is not live)
        yield ok("other indices", f"written to as well: {others}")
    if lag.seconds is None or lag.seconds < UNPUBLISHED_SECONDS:
        yield ok("publishing", f"{lag.messages:,} messages wait to become searchable")
    else:
        yield Finding(
            "publishing",
            Severity.WARNING,
            f"{lag.messages:,} messages wait to become searchable, the oldest for {lag.seconds:,.0f} s",
            "see that Elasticsearch answers and a worker is running; the worker's log says why",
        )


def _kept(index: Index, live: indices.KeptIndex) -> Iterator[Finding]:
    check, again = "search index", "run `instachat reindex`; searches go on meanwhile"
    if live.mapping != MAPPING:
        yield Finding(
            check,
            Severity.ERROR,
            f"{live.name} is of mapping {live.mapping}, this program makes {MAPPING}",
            again,
        )
    elif not live.made:
        yield ok(check, f"{live.name} is made with the first message")
    elif not index.exists(live.name):
        yield Finding(
            check,
            Severity.ERROR,
            f"{live.name} is not in Elasticsearch, or has lost its aliases: searches fail, and what is"
            " stored waits",
            "run `instachat reindex`",
        )
    else:
        yield ok(check, f"{live.name}, of mapping {live.mapping}, is searched")


def _without_index(publishing: bool, lag: outbox.Lag) -> Finding:
    if not publishing:
        return ok("search", "PostgreSQL searches: INSTACHAT_ELASTICSEARCH_URL is not set")
    return Finding(
        "search",
        Severity.WARNING,
        "PostgreSQL searches, and what changes is noted for an Elasticsearch that is not set any more:"
        f" {lag.messages:,} messages by now",
        "set INSTACHAT_ELASTICSEARCH_URL again, which publishes them; or end it for good with"
        " `instachat reindex --abort`",
    )


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


def _evaluated(check: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; or that it could not be evaluated, and why."""
    try:
        yield from findings()
    except (InstaChatError, redis.RedisError) as error:
        yield Finding(check, Severity.UNKNOWN, f"could not be evaluated: {error}")


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
