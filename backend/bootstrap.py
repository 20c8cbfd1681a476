"""From settings to a running backend: the only place that knows all of its parts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from backend.catalog.catalog import Catalog
from backend.domain.errors import Invalid, Unavailable
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.ingest.accept import Acceptor
from backend.ingest.barrier import Settler
from backend.ingest.counters import Counters
from backend.ingest.dead_letters import DeadLetters
from backend.ingest.direct_write import PastLog
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Lives
from backend.maintenance.cascade_delete import Clearer
from backend.maintenance.counter_sync import Syncer
from backend.reconcile.documents import Documents
from backend.reconcile.reconciler import Reconciler
from backend.reconcile.repair import Mender
from backend.search.publish import Publisher, keep_first_index
from backend.search.reindex import Reindexer
from backend.search.searcher import IndexSearcher, ScanSearcher
from backend.settings import Durability, Settings
from backend.storage.elasticsearch.index import Index
from backend.storage.postgres import Database
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.redis.log import Log
from backend.transfer.exporter import Exporter
from backend.transfer.importer import Importer
from backend.worker.worker import Jobs, Worker

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
    clearer: Clearer
    syncer: Syncer
    jobs: Jobs
    acceptor: Acceptor
    catalog: Catalog
    importer: Importer
    exporter: Exporter
    reconciler: Reconciler
    letters: DeadLetters
    index: Index | None
    publisher: Publisher | None
    reindexer: Reindexer | None

    def worker(self) -> Worker:
        """A worker on these parts; a private engine that was killed is revived by it."""
        tick = self.engines.ensure if self.engines else lambda: None
        return Worker(
            self.jobs,
            self.drainer,
            self.clearer,
            self.syncer,
            self.log,
            tick,
            self.publisher,
            self.reindexer,
        )


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the engines are, whether given or private."""

    engines: PrivateEngines | None
    database: str
    redis: str
    huey: str


@contextmanager
def addresses(settings: Settings) -> Iterator[Addresses]:
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
        yield Addresses(
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
    with addresses(settings) as at, ExitStack() as stack:
        database = Database(at.database)
        stack.callback(database.close)
        if settings.database_url is None:
            upgrade(database)
        else:
            database.check_schema()
        log = open_log(settings, at)
        stack.callback(log.close)
        if settings.elasticsearch_url is not None:
            with suppress(Unavailable):  # the next command tries again
                keep_first_index(database)
        core = assemble(settings, at, database, log)
        if core.index:
            stack.callback(core.index.close)
        yield core


def open_log(settings: Settings, at: Addresses, **seconds: float) -> Log:
    """The settings' log, with the limits and the durability that they ask for; not connected yet.

    `seconds` are those that Log takes, where they have to be others.
    """
    replicas = settings.durable_replicas if settings.durability is Durability.STRICT else 0
    return Log(at.redis, replicas=replicas, most_entries=settings.log_limit, **seconds)


def assemble(settings: Settings, at: Addresses, database: Database, log: Log) -> Backend:
    """Put the parts together; nothing is connected yet."""
    lives = Lives(log, database)
    index = open_index(settings)
    publisher = Publisher(database, index) if index else None

    def ring_publisher() -> None:
        if publisher:
            jobs.ring_publisher()

    drainer = Drainer(log, database, lives, ring_publisher=ring_publisher)
    counters = Counters(log, database, lives, drainer)
    clearer = Clearer(log, database)
    syncer = Syncer(log, database, lives)
    jobs = Jobs(at.huey, log, drainer, clearer, syncer)
    acceptor = Acceptor(log, lives, counters, jobs.ring)
    catalog = Catalog(
        log,
        database,
        counters,
        acceptor,
        drainer,
        IndexSearcher(database, index) if index else ScanSearcher(database),
        publish=publisher.publish if publisher else lambda: 0,
        ring_publisher=ring_publisher,
        ring_clearer=jobs.cascade,
    )
    settler = Settler(log, lives, drainer)
    documents = Documents(database, index, publisher) if index and publisher else None
    past_log = PastLog(log, database, lives, settler)
    return Backend(
        settings,
        at.engines,
        database,
        log,
        counters,
        drainer,
        clearer,
        syncer,
        jobs,
        acceptor,
        catalog,
        Importer(log, database, settler, past_log),
        Exporter(database, settler),
        Reconciler(log, database, settler, Mender(log, database, lives, past_log), documents),
        DeadLetters(log, database, past_log),
        index,
        publisher,
        Reindexer(database, index, publisher) if index and publisher else None,
    )


def open_index(settings: Settings) -> Index | None:
    """The settings' Elasticsearch, not connected yet; None where PostgreSQL searches."""
    if settings.elasticsearch_url is None:
        return None
    key = settings.elasticsearch_api_key
    return Index(
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
