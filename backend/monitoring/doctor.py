"""Checks every dependency and common misconfigurations, and names the remedy of each problem.

Checks change nothing. The checks of Redis are in `redis_checks`, those of searching in `search_checks`, those
of the tables in `schema_checks`, that of dead letters is in `dead_letter_checks`.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from backend.domain.errors import EngineDown, InstaChatError, SchemaMismatch, WrongRedis
from backend.domain.plurals import counted
from backend.monitoring.checks import (
    CheckResult,
    SafeRepair,
    Severity,
    error_result,
    ok_result,
    run_check,
)
from backend.monitoring.dead_letter_checks import check_dead_letters
from backend.monitoring.redis_checks import (
    RedisNodes,
    check_clocks,
    check_durability,
    check_memory,
    check_nodes,
    check_replicas,
    check_scripts,
    check_shards,
)
from backend.monitoring.replication_checks import CHECK as REPLICATION
from backend.monitoring.replication_checks import check_replication
from backend.monitoring.reshard_checks import check_reshard
from backend.monitoring.schema_checks import check_privileges, check_schema_objects
from backend.monitoring.search_checks import check_elasticsearch, check_search
from backend.monitoring.status import is_repaired
from backend.settings import Settings
from backend.storage.postgres import reconciliations, shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema import SCHEMA
from backend.storage.postgres.server import read_settings, server_version
from backend.storage.redis.keys import FIRST_SPREAD_SHARD
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex

MIN_POSTGRES_VERSION = 15
MAX_SYNC_LAG_SECONDS = 3_600.0
LOW_DISK_BYTES = 1 << 30
CRITICAL_DISK_BYTES = 200 << 20


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the checks examine. The callables read values of parts that this package may not import."""

    settings: Settings
    database: Database
    log: Log
    workers: Workers
    index: SearchIndex | None
    queue_length: Callable[[], int]
    sync_lag: Callable[[], float]
    find_wrong_redis: Callable[[], WrongRedis | None]


class _EngineCheck(NamedTuple):
    """The results for an engine, and whether further checks can use it."""

    results: list[CheckResult]
    reachable: bool


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Run every check in turn, but those that need an unreachable engine."""
    yield from _check_disk_space(context.settings)
    postgres = _check_postgres(context.database)
    yield from postgres.results
    if postgres.reachable:
        yield from _check_postgres_settings(context)
        retention = context.settings.parsed_log_retention.seconds
        yield from run_check(REPLICATION, lambda: check_replication(context.database, retention))
        yield from run_check("rewinds", lambda: [_check_rewinds(context.database)])
        yield from run_check("reshard", lambda: check_reshard(context.database))
        yield from run_check("search", lambda: check_search(context.database, context.index))
        yield from run_check("dead letters", lambda: check_dead_letters(context.database))
    redis = check_nodes(context.log)
    yield from redis.results
    if redis.reports:
        yield from _check_redis_settings(context, redis)
        yield from run_check("installation", lambda: [_check_installation(context)])
        yield from run_check("counts in SQL", lambda: [_check_counts(context)])
    # Without a URL of its own, the queue uses the same Redis.
    if redis.reports or context.settings.huey_url is not None:
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


def _check_postgres(database: Database) -> _EngineCheck:
    try:
        with database.connect() as connection:
            number = server_version(connection).number
    except InstaChatError as error:
        return _failed("PostgreSQL", error)
    found = f"PostgreSQL {number // 10_000}.{number % 10_000} answers"
    if number // 10_000 >= MIN_POSTGRES_VERSION:
        return _EngineCheck([ok_result("PostgreSQL", found)], reachable=True)
    result = CheckResult(
        "PostgreSQL",
        Severity.ERROR,
        f"{found}; this program needs {MIN_POSTGRES_VERSION} or newer",
        f"upgrade the server to PostgreSQL {MIN_POSTGRES_VERSION} or newer",
    )
    return _EngineCheck([result], reachable=True)


def _failed(check: str, error: InstaChatError) -> _EngineCheck:
    return _EngineCheck([error_result(check, error)], reachable=False)


def _check_postgres_settings(context: CheckContext) -> Iterator[CheckResult]:
    database = context.database
    try:
        schema = database.check_schema()
        yield ok_result(
            "schema",
            f"the database has schema {schema.number} and admits programs since {schema.compatible_since}",
        )
        yield from run_check("tables", lambda: check_schema_objects(database))
        yield from run_check("privileges", lambda: check_privileges(database))
    except SchemaMismatch as error:
        found = database.schema()
        is_older = found is None or found.number < SCHEMA
        yield error_result("schema", error, SafeRepair.MIGRATE if is_older else None)
    with database.connect() as connection:
        server = read_settings(connection)
    durable = {"fsync": server.fsync, "full_page_writes": server.full_page_writes}
    off = [name for name, value in durable.items() if value != "on"]
    if off:
        yield CheckResult(
            "PostgreSQL's durability",
            Severity.ERROR,
            f"{' and '.join(off)} off: a power loss may destroy stored data",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf, then reload",
        )
    else:
        message = "fsync and full_page_writes are on"
        if server.synchronous_commit == "off":
            message += "; synchronous_commit is off by default, which this program overrides"
        yield ok_result("PostgreSQL's durability", message)
    if server.server_encoding == "UTF8":
        yield ok_result("encoding", "the database's encoding is UTF8")
    else:
        yield CheckResult(
            "encoding",
            Severity.ERROR,
            f"the database's encoding is {server.server_encoding}: not every text can be stored",
            "create another database with ENCODING 'UTF8' and TEMPLATE template0",
        )


# -- Redis ----------------------------------------------------------------------------------------


def _check_redis_settings(context: CheckContext, nodes: RedisNodes) -> Iterator[CheckResult]:
    log, answering = context.log, nodes.answering
    shards = _shards(context.database)
    yield from run_check("Redis's shards", lambda: check_shards(log, nodes.reports, shards))
    yield check_scripts(log, shards)
    yield from check_durability(context.settings, answering)
    yield from check_replicas(context.settings, nodes)
    yield from check_memory(answering)
    yield check_clocks(answering)
    yield from run_check("worker", lambda: [_check_worker(context.workers)])


def _shards(database: Database) -> Sequence[int]:
    """The shards; one of them while PostgreSQL, which knows them, can't be asked."""
    try:
        return database.installation.all_shards
    except InstaChatError:
        return range(FIRST_SPREAD_SHARD, FIRST_SPREAD_SHARD + 1)


def _check_worker(workers: Workers) -> CheckResult:
    if workers.paused():
        return CheckResult(
            "worker",
            Severity.WARNING,
            "the job queue is paused: accepted messages are safe, but not stored yet",
            "run `instachat queue resume`",
        )
    if running := workers.count():
        return ok_result("worker", f"{running} running")
    return CheckResult(
        "worker",
        Severity.WARNING,
        "no worker is running: accepted messages are safe, but not stored yet",
        "run `instachat worker` (`instachat up` includes one)",
    )


# -- both engines -------------------------------------------------------------------------------------


def _check_installation(context: CheckContext) -> CheckResult:
    """Check that the numbers in this Redis belong to this database, and are there."""
    if wrong := context.find_wrong_redis():
        return error_result("installation", wrong)
    for shard in context.database.installation.all_shards:
        with suppress(EngineDown):  # its own check names it
            if context.log.probe(shard).installation:
                return ok_result("installation", "this Redis belongs to this database")
    with context.database.connect() as connection:
        is_new = not shards.epoch_servers(connection)
    if is_new:
        return ok_result(
            "installation", "this Redis is empty; the first command assigns it to this database"
        )
    return CheckResult(
        "installation",
        Severity.WARNING,
        "this Redis has lost the numbers of this installation: what was accepted and not stored is lost;"
        " the next command continues above all stored numbers",
        "run `instachat reconcile`, which names the numbers whose loss left a trace",
    )


def _check_rewinds(database: Database) -> CheckResult:
    with database.connect() as connection:
        rewound = shards.last_rewind(connection)
        reconciled = reconciliations.last(connection)
    if rewound is None:
        return ok_result("rewinds", "PostgreSQL has never gone back in time")
    found = f"PostgreSQL has gone back in time, last noticed at {rewound.at:%Y-%m-%d %H:%M} UTC"
    if is_repaired(rewound, reconciled):
        return ok_result("rewinds", f"{found}; the stores were compared since")
    if rewound.lost:
        return CheckResult(
            "rewinds",
            Severity.ERROR,
            f"{found}: {counted(rewound.lost, 'number')} of accepted chats and messages"
            f" {'is' if rewound.lost == 1 else 'are'} lost, because the log did not hold them any more",
            "import them from an export, if there is one; then run `instachat reconcile --repair`, which"
            " stores their numbers as lost; set changed rate limits and retentions again; and raise"
            " INSTACHAT_LOG_RETENTION",
        )
    return CheckResult(
        "rewinds",
        Severity.WARNING,
        f"{found}: what the log held is stored again; edits, deletions, imports, rate limits and retentions"
        " are not",
        "repeat imports, set changed rate limits and retentions again, then run `instachat reconcile"
        " --repair`",
    )


def _check_counts(context: CheckContext) -> CheckResult:
    lag = context.sync_lag()
    if lag <= MAX_SYNC_LAG_SECONDS:
        return ok_result("counts in SQL", "are at most an hour behind the live counts")
    return CheckResult(
        "counts in SQL",
        Severity.WARNING,
        f"a count in SQL is {lag / 3600:,.1f} h behind; the program itself reads the live counts",
        "run `instachat sync-counters`, by cron (see the README) where no worker is running",
        repair=SafeRepair.SYNC_COUNTERS,
    )


def _check_queue(context: CheckContext) -> Iterator[CheckResult]:
    try:
        yield ok_result(
            "job queue", f"answers, {counted(context.queue_length(), 'job waits', 'jobs wait')}"
        )
    except InstaChatError as error:
        yield error_result("job queue", error)
