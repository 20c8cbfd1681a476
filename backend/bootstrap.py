"""From settings to a running backend: the only module that names every part."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

from backend.catalog.catalog import Catalog, make_catalog
from backend.catalog.waiting import Waiting
from backend.domain.errors import Invalid, Unavailable
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.ingest.accept import Acceptor
from backend.ingest.application_log import ApplicationLog
from backend.ingest.barrier import Barrier
from backend.ingest.counters import Counters
from backend.ingest.dead_letters import DeadLetters
from backend.ingest.direct_write import DirectWriter
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.kept_log import KeptLog
from backend.live.reader import LiveReader
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.maintenance.counter_sync import CounterSync
from backend.reconcile.reconciler import Reconciler
from backend.reconcile.repair import Repairer
from backend.search.publish import Publisher, register_first_index
from backend.search.refresh import Refresher
from backend.search.reindex import Reindexer
from backend.search.searcher import IndexSearcher, ScanSearcher
from backend.settings import Durability, Settings
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres import partitions
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex
from backend.transfer.exporter import Exporter
from backend.transfer.importer import Importer
from backend.worker.queue import JobQueue
from backend.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Backend:
    """All parts of the backend, connected to each other."""

    settings: Settings
    engines: PrivateEngines | None
    database: Database
    log: Log
    workers: Workers
    kept_log: KeptLog
    counters: Counters
    drainer: Drainer
    cascade_deleter: CascadeDeleter
    counter_sync: CounterSync
    jobs: JobQueue
    acceptor: Acceptor
    catalog: Catalog
    live_reader: LiveReader
    importer: Importer
    exporter: Exporter
    reconciler: Reconciler
    dead_letters: DeadLetters
    index: SearchIndex | None
    publisher: Publisher | None
    reindexer: Reindexer | None

    def worker(self) -> Worker:
        """A worker on these parts. It restarts private engines that were killed."""
        return Worker(
            jobs=self.jobs,
            drainer=self.drainer,
            cascade_deleter=self.cascade_deleter,
            counter_sync=self.counter_sync,
            workers=self.workers,
            kept_log=self.kept_log,
            ensure_engines=self.engines.ensure if self.engines else lambda: None,
            publisher=self.publisher,
            refresher=Refresher(self.database, self.index) if self.index else None,
            reindexer=self.reindexer,
            check_schema=self.database.check_schema,
        )


@dataclass(frozen=True, slots=True)
class EngineUrls:
    """The URLs of the engines, configured or private."""

    engines: PrivateEngines | None
    database: str
    redis: str
    huey: str


@contextmanager
def engine_urls(settings: Settings) -> Iterator[EngineUrls]:
    """The engines' URLs. Starts private engines where no URL is set, and keeps them running until the end."""
    with ExitStack() as stack:
        engines = None
        if settings.database_url is None or settings.redis_url is None:
            engines = acquire(
                settings.home,
                settings.durability,
                postgres=settings.database_url is None,
                valkey=settings.redis_url is None,
            )
            stack.callback(engines.close)
        redis_url = settings.redis_url or (engines and engines.redis_url) or ""
        if "+cluster" in redis_url and settings.huey_url is None:
            raise Invalid(
                "a Redis Cluster needs a separate plain Redis for the job queue",
                "set INSTACHAT_HUEY_URL",
            )
        yield EngineUrls(
            engines,
            settings.database_url or (engines and engines.database_url) or "",
            redis_url,
            settings.huey_url or redis_url,
        )


@contextmanager
def open_backend(settings: Settings) -> Iterator[Backend]:
    """A backend on the settings' engines, closed at the end.

    Migrates a private database; raises SchemaMismatch if a configured one needs a migration, or admits newer
    programs only. Raises EngineDown if PostgreSQL is unreachable; Redis is connected at its first use.
    """
    with open_unchecked(settings) as core:
        if settings.database_url is None:
            upgrade(core.database)
        else:
            core.database.check_schema()
        if core.index is not None:
            with suppress(Unavailable):  # the next command tries again
                register_first_index(core.database, core.index)
        yield core


@contextmanager
def open_unchecked(settings: Settings, **log_timeouts: float) -> Iterator[Backend]:
    """Like `open_backend`, without migrations and checks: nothing is connected before its first use.

    `log_timeouts` override the defaults of Log.
    """
    with engine_urls(settings) as urls, open_parts(settings, urls, **log_timeouts) as core:
        yield core


@contextmanager
def open_parts(settings: Settings, urls: EngineUrls, **log_timeouts: float) -> Iterator[Backend]:
    """Like `open_unchecked`, on engines that are running already."""
    with ExitStack() as stack:
        database = stack.enter_context(closing(Database(urls.database)))
        log = stack.enter_context(closing(open_log(settings, urls, **log_timeouts)))
        core = assemble(settings, urls, database, log)
        stack.callback(core.workers.close)
        if core.index is not None:
            stack.callback(core.index.close)
        yield core


def migrate(settings: Settings, *, dry_run: bool = False) -> tuple[str | None, str]:
    """Migrate the settings' database to the current schema; returns the revisions before and after.

    Raises SchemaMismatch if the schema is newer and does not admit this program.
    """
    with engine_urls(settings) as urls, closing(Database(urls.database)) as database:
        return upgrade(database, dry_run=dry_run)


def partition_messages(settings: Settings, count: int, *, dry_run: bool = False) -> int:
    """Distribute the messages of the settings' database over partitions; returns how many there were.

    With `dry_run` nothing is changed. Raises as `partitions.partition_messages` and every use of a database.
    """
    with engine_urls(settings) as urls, closing(Database(urls.database)) as database:
        if not dry_run:
            return partitions.partition_messages(database, count)
        with database.connect() as connection:
            return partitions.count_partitions(connection)


def open_log(settings: Settings, urls: EngineUrls, **timeouts: float) -> Log:
    """The log with the limits and the durability of the settings; not connected yet.

    `timeouts` override the defaults of Log.
    """
    replicas = settings.durable_replicas if settings.durability is Durability.STRICT else 0
    return Log(
        urls.redis,
        replicas=replicas,
        max_entries=settings.log_limit,
        retention_seconds=settings.parsed_log_retention.seconds,
        **timeouts,
    )


def assemble(settings: Settings, urls: EngineUrls, database: Database, log: Log) -> Backend:
    """Create the parts and connect them to each other; no engine is connected yet."""
    epochs = Epochs(log, database)
    index = open_index(settings)
    publisher = Publisher(database, index) if index else None

    def notify_publisher() -> None:
        if publisher:
            jobs.notify_publisher()

    drainer = Drainer(log, database, epochs, notify_publisher=notify_publisher)
    barrier = Barrier(log, database, epochs, drainer)
    counters = Counters(log, database, epochs, barrier)
    cascade_deleter = CascadeDeleter(log, database)
    counter_sync = CounterSync(log, database, epochs)
    workers = Workers(urls.huey)
    jobs = JobQueue(urls.huey, workers.may_work)
    acceptor = Acceptor(log, epochs, counters, jobs.notify_drain)
    catalog = make_catalog(
        Waiting(log, workers, database, counters, drainer),
        acceptor,
        ApplicationLog(log, workers, database, epochs, drainer, jobs.notify_drain),
        IndexSearcher(database, index) if index else ScanSearcher(database),
        publish=publisher.publish if publisher else lambda: 0,
        notify_publisher=notify_publisher,
        notify_cascade=jobs.notify_cascade,
    )
    direct_writer = DirectWriter(log, database, epochs, barrier, drainer)
    repairer = Repairer(log, database, epochs, direct_writer, publisher)
    return Backend(
        settings=settings,
        engines=urls.engines,
        database=database,
        log=log,
        workers=workers,
        kept_log=KeptLog(log, database, settings.parsed_log_retention.memory_share),
        counters=counters,
        drainer=drainer,
        cascade_deleter=cascade_deleter,
        counter_sync=counter_sync,
        jobs=jobs,
        acceptor=acceptor,
        catalog=catalog,
        live_reader=LiveReader(database, counters),
        importer=Importer(log, database, barrier, direct_writer),
        exporter=Exporter(database, barrier),
        reconciler=Reconciler(log, workers, database, barrier, repairer, index),
        dead_letters=DeadLetters(log, database, direct_writer),
        index=index,
        publisher=publisher,
        reindexer=Reindexer(database, index, publisher) if index and publisher else None,
    )


def open_index(settings: Settings) -> SearchIndex | None:
    """The client of Elasticsearch, not connected yet; None if it is not configured."""
    if settings.elasticsearch_url is None:
        return None
    key = settings.elasticsearch_api_key
    return ElasticsearchIndex(
        settings.elasticsearch_url,
        api_key=key.get_secret_value() if key else None,
        ca_file=settings.elasticsearch_ca_file,
        shards=settings.elasticsearch_shards,
        replicas=settings.elasticsearch_replicas,
    )
