"""From settings to a running backend: the only place that knows all of its parts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from backend.catalog.catalog import Catalog
from backend.domain.errors import Invalid, Unavailable
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.ingest.accept import Acceptor
from backend.ingest.barrier import Barrier
from backend.ingest.counters import Counters
from backend.ingest.dead_letters import DeadLetters
from backend.ingest.direct_write import DirectWriter
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.maintenance.counter_sync import CounterSync
from backend.reconcile.documents import DocumentReconciler
from backend.reconcile.reconciler import Reconciler
from backend.reconcile.repair import Repairer
from backend.search.publish import Publisher, register_first_index
from backend.search.reindex import Reindexer
from backend.search.searcher import IndexSearcher, ScanSearcher
from backend.settings import Durability, Settings
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.redis.log import Log
from backend.storage.search_index import SearchIndex
from backend.transfer.exporter import Exporter
from backend.transfer.importer import Importer
from backend.worker.queue import JobQueue
from backend.worker.worker import Worker, may_work

STRICT_REDIS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
FAST_REDIS = {**STRICT_REDIS, "appendfsync": "everysec"}


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything a command needs, put together."""

    settings: Settings
    engines: PrivateEngines | None
    database: Database
    log: Log
    counters: Counters
    drainer: Drainer
    cascade_deleter: CascadeDeleter
    counter_sync: CounterSync
    jobs: JobQueue
    acceptor: Acceptor
    catalog: Catalog
    importer: Importer
    exporter: Exporter
    reconciler: Reconciler
    dead_letters: DeadLetters
    index: SearchIndex | None
    publisher: Publisher | None
    reindexer: Reindexer | None

    def worker(self) -> Worker:
        """A worker on these parts; a private engine that was killed is revived by it."""
        ensure_engines = self.engines.ensure if self.engines else lambda: None
        return Worker(
            self.jobs,
            self.drainer,
            self.cascade_deleter,
            self.counter_sync,
            self.log,
            ensure_engines,
            self.publisher,
            self.reindexer,
        )


@dataclass(frozen=True, slots=True)
class EngineUrls:
    """Where the engines are, whether given or private."""

    engines: PrivateEngines | None
    database: str
    redis: str
    huey: str


@contextmanager
def engine_urls(settings: Settings) -> Iterator[EngineUrls]:
    """The engines' URLs; private engines are started where none is given, and held while inside."""
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
                "with a Redis Cluster the job queue needs a plain Redis of its own",
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
    """A backend on the settings' engines; everything is let go at the end.

    A private database is migrated at once, a given one never: SchemaMismatch says what to run.
    Raises EngineDown when PostgreSQL is away; Redis is first used when it is needed.
    """
    with engine_urls(settings) as urls, ExitStack() as stack:
        database = Database(urls.database)
        stack.callback(database.close)
        if settings.database_url is None:
            upgrade(database)
        else:
            database.check_schema()
        log = open_log(settings, urls)
        stack.callback(log.close)
        core = assemble(settings, urls, database, log)
        if core.index:
            stack.callback(core.index.close)
            with suppress(Unavailable):  # the next command tries again
                register_first_index(database, core.index)
        yield core


def open_log(settings: Settings, urls: EngineUrls, **timeouts: float) -> Log:
    """The settings' log, with the limits and the durability that they ask for; not connected yet.

    `timeouts` are those that Log takes, where they have to be others.
    """
    replicas = settings.durable_replicas if settings.durability is Durability.STRICT else 0
    return Log(urls.redis, replicas=replicas, max_entries=settings.log_limit, **timeouts)


def assemble(settings: Settings, urls: EngineUrls, database: Database, log: Log) -> Backend:
    """Put the parts together; nothing is connected yet."""
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
    jobs = JobQueue(urls.huey, lambda: may_work(log))
    acceptor = Acceptor(log, epochs, counters, jobs.notify_drain)
    catalog = Catalog(
        log,
        database,
        counters,
        acceptor,
        drainer,
        IndexSearcher(database, index) if index else ScanSearcher(database),
        publish=publisher.publish if publisher else lambda: 0,
        notify_publisher=notify_publisher,
        notify_cascade=jobs.notify_cascade,
    )
    documents = DocumentReconciler(database, index, publisher) if index and publisher else None
    direct_writer = DirectWriter(log, database, epochs, barrier, drainer)
    return Backend(
        settings,
        urls.engines,
        database,
        log,
        counters,
        drainer,
        cascade_deleter,
        counter_sync,
        jobs,
        acceptor,
        catalog,
        Importer(log, database, barrier, direct_writer),
        Exporter(database, barrier),
        Reconciler(
            log, database, barrier, Repairer(log, database, epochs, direct_writer), documents
        ),
        DeadLetters(log, database, direct_writer),
        index,
        publisher,
        Reindexer(database, index, publisher) if index and publisher else None,
    )


def open_index(settings: Settings) -> SearchIndex | None:
    """The settings' Elasticsearch, not connected yet; None where PostgreSQL searches."""
    if settings.elasticsearch_url is None:
        return None
    key = settings.elasticsearch_api_key
    return ElasticsearchIndex(
        settings.elasticsearch_url,
        api_key=key.get_secret_value() if key else None,
        ca_file=settings.elasticsearch_ca_file,
    )


def durability_faults(settings: Settings, log: Log) -> list[str] | None:
    """What in a given Redis's settings voids the promised durability, as `name is value` texts.

    None where Redis does not let us read them.
    """
    wanted = STRICT_REDIS if settings.durability is Durability.STRICT else FAST_REDIS
    found = log.configuration(*wanted)
    if found is None:
        return None
    return [
        f"{name} is {found[name]}, not {value}"
        for name, value in wanted.items()
        if found.get(name, value) != value
        and not (name == "appendfsync" and found[name] == "always")
    ]
