"""From settings to a running backend: the only module that names every part.

A part is made, and its module imported, when it is first used: a command starts as fast as what it uses.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from backend.domain.errors import Invalid, Unavailable
from backend.settings import Durability, Settings
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers

if TYPE_CHECKING:
    from backend.catalog.catalog import Catalog
    from backend.catalog.message_trace.tracer import MessageTracer
    from backend.catalog.rate_limits import RateLimits
    from backend.catalog.retention import Retention
    from backend.embedded.private_engines import PrivateEngines
    from backend.ingest.accept import Acceptor
    from backend.ingest.barrier import Barrier
    from backend.ingest.counters import Counters
    from backend.ingest.dead_letters import DeadLetters
    from backend.ingest.direct_write import DirectWriter
    from backend.ingest.drain import Drainer
    from backend.ingest.epochs import Epochs
    from backend.ingest.kept_log import KeptLog
    from backend.ingest.local_drain import LocalDrainer
    from backend.ingest.routing import Routing
    from backend.ingest.tokens import Tokens
    from backend.live.reader import LiveReader
    from backend.maintenance.cascade_delete import CascadeDeleter
    from backend.maintenance.counter_sync import CounterSync
    from backend.maintenance.erasure import Eraser
    from backend.maintenance.reshard import Resharder
    from backend.monitoring.audit_trail import AuditTrail
    from backend.reconcile.reconciler import Reconciler
    from backend.search.publish import Publisher
    from backend.search.reindex import Reindexer
    from backend.storage.postgres.database import Database
    from backend.storage.search_index import SearchIndex
    from backend.transfer.exporter import Exporter
    from backend.transfer.importer import Importer
    from backend.worker.queue import JobQueue
    from backend.worker.worker import Worker

T = TypeVar("T")


class _Part(Generic[T]):
    """A part of a Backend, made once, at its first use, whichever threads ask for it."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, core: "Backend", owner: type) -> T:
        # Only until it is made: then the instance has an attribute of this name.
        with core.making:
            if self._name not in core.__dict__:
                core.__dict__[self._name] = self._make(core)
        made: T = core.__dict__[self._name]
        return made


class Backend:
    """All parts of the backend, connected to each other. Thread-safe; no engine is connected yet."""

    def __init__(
        self, settings: Settings, urls: "EngineUrls", database: "Database", log: Log
    ) -> None:
        self.making = threading.RLock()
        """Held while a part is made."""
        self.settings = settings
        self.engines = urls.engines
        self.database = database
        self.log = log
        self.workers = Workers(urls.huey)
        self._huey_url = urls.huey

    def close(self) -> None:
        """Close the connections of the parts that were made."""
        self.workers.close()
        if index := self.__dict__.get("index"):
            index.close()

    def make_all(self) -> None:
        """Make every part now: for programs that run until they are stopped, whose requests must not wait."""
        for name, part in vars(Backend).items():
            if isinstance(part, _Part):
                getattr(self, name)

    # -- naming applications -----------------------------------------------------------------------

    @_Part
    def routing(self) -> "Routing":
        from backend.ingest.routing import Routing

        return Routing(self.database)

    @_Part
    def tokens(self) -> "Tokens":
        from backend.ingest.tokens import Tokens

        return Tokens(self.database)

    # -- accepting and storing ---------------------------------------------------------------------

    @_Part
    def epochs(self) -> "Epochs":
        from backend.ingest.epochs import Epochs

        return Epochs(self.log, self.database)

    @_Part
    def barrier(self) -> "Barrier":
        from backend.ingest.barrier import Barrier

        return Barrier(self.log, self.database, self.epochs, self.local_drainer)

    @_Part
    def counters(self) -> "Counters":
        from backend.ingest.counters import Counters

        return Counters(self.log, self.database, self.epochs, self.routing, self.barrier)

    @_Part
    def acceptor(self) -> "Acceptor":
        from backend.ingest.accept import Acceptor
        from backend.ingest.backlog_limit import BacklogLimit
        from backend.ingest.key_limit import KeyLimit

        return Acceptor(
            self.log,
            self.epochs,
            self.routing,
            self.counters,
            BacklogLimit(self.log, self.database),
            KeyLimit(self.log),
            self._notify_drain,
        )

    @_Part
    def drainer(self) -> "Drainer":
        from backend.ingest.drain import Drainer

        return Drainer(
            self.log, self.database, self.epochs, notify_publisher=self._notify_publisher
        )

    @_Part
    def kept_log(self) -> "KeptLog":
        from backend.ingest.kept_log import KeptLog

        memory_share = self.settings.parsed_log_retention.memory_share
        return KeptLog(self.log, self.database, memory_share)

    @_Part
    def local_drainer(self) -> "LocalDrainer":
        from backend.ingest.local_drain import LocalDrainer

        return LocalDrainer(lambda: self.drainer, self.workers, lambda: self.kept_log)

    @_Part
    def direct_writer(self) -> "DirectWriter":
        from backend.ingest.direct_write import DirectWriter

        return DirectWriter(
            self.log, self.database, self.epochs, self.routing, self.barrier, self.local_drainer
        )

    @_Part
    def dead_letters(self) -> "DeadLetters":
        from backend.ingest.dead_letters import DeadLetters

        return DeadLetters(self.log, self.database, self.direct_writer)

    @_Part
    def jobs(self) -> "JobQueue":
        from backend.worker.queue import JobQueue

        return JobQueue(self._huey_url, self.workers.may_work)

    # -- reading and changing ----------------------------------------------------------------------

    @_Part
    def catalog(self) -> "Catalog":
        from backend.catalog.catalog import make_catalog
        from backend.catalog.waiting import Waiting
        from backend.ingest.application_log import ApplicationLog
        from backend.search.application_search import ApplicationSearcher
        from backend.search.searcher import IndexSearcher, ScanSearcher

        index_searcher = IndexSearcher(self.database, self.index) if self.index else None
        return make_catalog(
            Waiting(self.log, self.workers, self.database, self.counters, self.local_drainer),
            self.acceptor,
            ApplicationLog(
                self.log,
                self.workers,
                self.epochs,
                self.routing,
                self.local_drainer,
                self._notify_drain,
            ),
            index_searcher or ScanSearcher(self.database),
            ApplicationSearcher(self.database, index_searcher),
            publish=self._publish,
            notify_publisher=self._notify_publisher,
            notify_cascade=self._notify_cascade,
        )

    @_Part
    def retention(self) -> "Retention":
        from backend.catalog.bulk_deletion import BulkDeletion
        from backend.catalog.retention import Retention

        return Retention(self.database, BulkDeletion(self.catalog.messages))

    @_Part
    def rate_limits(self) -> "RateLimits":
        from backend.catalog.rate_limits import RateLimits

        return RateLimits(self.database, self.counters)

    @_Part
    def live_reader(self) -> "LiveReader":
        from backend.live.reader import LiveReader

        return LiveReader(self.database, self.counters)

    @_Part
    def message_tracer(self) -> "MessageTracer":
        from backend.catalog.message_trace.tracer import MessageTracer

        return MessageTracer(
            self.log,
            self.database,
            self.counters,
            self.workers,
            self.catalog.messages.searcher,
            self.index,
        )

    # -- searching ---------------------------------------------------------------------------------

    @_Part
    def index(self) -> "SearchIndex | None":
        """The client of Elasticsearch; None if it is not configured."""
        return open_index(self.settings)

    @_Part
    def publisher(self) -> "Publisher | None":
        if self.index is None:
            return None
        from backend.search.publish import Publisher

        return Publisher(self.database, self.index)

    @_Part
    def reindexer(self) -> "Reindexer | None":
        if self.index is None or self.publisher is None:
            return None
        from backend.search.reindex import Reindexer

        return Reindexer(self.database, self.index, self.publisher)

    # -- operating ---------------------------------------------------------------------------------

    @_Part
    def cascade_deleter(self) -> "CascadeDeleter":
        from backend.maintenance.cascade_delete import CascadeDeleter

        return CascadeDeleter(self.log, self.database, self.routing)

    @_Part
    def counter_sync(self) -> "CounterSync":
        from backend.maintenance.counter_sync import CounterSync

        return CounterSync(self.log, self.database, self.epochs, self.routing)

    @_Part
    def importer(self) -> "Importer":
        from backend.transfer.importer import Importer

        return Importer(
            self.log, self.database, self.routing, self.barrier, self.direct_writer, self.tokens
        )

    @_Part
    def exporter(self) -> "Exporter":
        from backend.transfer.exporter import Exporter

        return Exporter(self.database, self.routing, self.barrier)

    @_Part
    def reconciler(self) -> "Reconciler":
        from backend.reconcile.reconciler import Reconciler
        from backend.reconcile.repair import Repairer

        repairer = Repairer(
            self.log, self.database, self.epochs, self.routing, self.direct_writer, self.publisher
        )
        return Reconciler(
            self.log,
            self.workers,
            self.database,
            self.routing,
            self.barrier,
            repairer,
            self.index,
        )

    @_Part
    def resharder(self) -> "Resharder":
        from backend.maintenance.reshard import Resharder

        return Resharder(
            self.log,
            self.database,
            self.epochs,
            self.routing,
            self.counters,
            self.barrier,
            self.acceptor,
        )

    @_Part
    def eraser(self) -> "Eraser":
        from backend.maintenance.erasure import Eraser

        return Eraser(
            self.log,
            self.database,
            self.drainer,
            self.kept_log,
            self.workers,
            is_private=self.settings.database_url is None,
        )

    @_Part
    def audit_trail(self) -> "AuditTrail":
        from backend.monitoring.audit_trail import AuditTrail

        return AuditTrail(self.database)

    def worker(self) -> "Worker":
        """A worker on these parts. It restarts private engines that were killed."""
        from backend.search.refresh import Refresher
        from backend.worker.worker import Worker

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
            apply_retention=self.retention.apply,
        )

    def _notify_drain(self, shard: int) -> None:
        self.jobs.notify_drain(shard)

    def _notify_cascade(self) -> None:
        self.jobs.notify_cascade()

    def _notify_publisher(self) -> None:
        if self.publisher:
            self.jobs.notify_publisher()

    def _publish(self) -> int:
        return self.publisher.publish() if self.publisher else 0


@dataclass(frozen=True, slots=True)
class EngineUrls:
    """The URLs of the engines, configured or private."""

    engines: "PrivateEngines | None"
    database: str
    redis: str
    huey: str


@contextmanager
def engine_urls(settings: Settings) -> Iterator[EngineUrls]:
    """The engines' URLs. Starts private engines where no URL is set, and keeps them running until the end."""
    with ExitStack() as stack:
        engines = None
        if settings.database_url is None or settings.redis_url is None:
            from backend.embedded.private_engines import acquire

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
    with engine_urls(settings) as urls, open_checked(settings, urls) as core:
        yield core


@contextmanager
def open_checked(settings: Settings, urls: EngineUrls) -> Iterator[Backend]:
    """Like `open_backend`, on engines that are running already."""
    with open_parts(settings, urls) as core:
        if settings.database_url is None:
            from backend.storage.postgres.schema_upgrade import upgrade

            upgrade(core.database)
        else:
            core.database.check_schema()
        if core.index is not None:
            from backend.search.publish import register_first_index

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
    from backend.storage.postgres.database import Database

    with ExitStack() as stack:
        database = stack.enter_context(closing(Database(urls.database)))
        log = stack.enter_context(closing(open_log(settings, urls, **log_timeouts)))
        core = stack.enter_context(closing(Backend(settings, urls, database, log)))
        # Made now: a missing extra, or an unusable URL, is reported before any engine is asked.
        _ = core.index
        yield core


@contextmanager
def open_database(settings: Settings) -> Iterator["Database"]:
    """The settings' database, of any schema, closed at the end."""
    from backend.storage.postgres.database import Database

    with engine_urls(settings) as urls, closing(Database(urls.database)) as database:
        yield database


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


def open_index(settings: Settings) -> "SearchIndex | None":
    """The client of Elasticsearch, not connected yet; None if it is not configured."""
    if settings.elasticsearch_url is None:
        return None
    from backend.storage.elasticsearch.index import ElasticsearchIndex

    key = settings.elasticsearch_api_key
    return ElasticsearchIndex(
        settings.elasticsearch_url,
        api_key=key.get_secret_value() if key else None,
        ca_file=settings.elasticsearch_ca_file,
        shards=settings.elasticsearch_shards,
        replicas=settings.elasticsearch_replicas,
    )
