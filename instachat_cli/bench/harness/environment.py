"""The environment of a benchmark: engines, a database of its own, and messages to send.

Nothing remains afterwards. Private engines use a temporary folder. On engines of the settings, the
environment creates another database on that server and drops it at the end; Redis must be empty and is
emptied again; the Elasticsearch indices of that database are dropped with it.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg2
from sqlalchemy import make_url, text

from backend.bootstrap import Backend, EngineUrls, engine_urls, open_backend
from backend.domain.errors import Failed, InstaChatError, Invalid
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import chats, search_indices, shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.driver import LOST_CONNECTION_OPTIONS
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.postgres.shards import ShardProgress
from backend.storage.redis.types import Creation, DrainedLog, Refusal
from backend.storage.search_index import SearchIndex
from loadtest.corpus.conversations import lines

REQUESTS_PER_CALL = 500  # requests of one message each that one call to Redis appends to the log
CONCURRENT_REQUESTS = 64  # requests of one message that are accepted together
BATCH_SIZE = 1_000  # messages a request, as `messages create -` sends them


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of the benchmarks."""

    pairs: int = 7
    startup_pairs: int = 15  # of the command line's start, which is short
    messages: int = 30_000  # a repetition
    jobs: int = 1_500  # a repetition of the baseline with one job a message
    chats: int = 1_000_000  # of the benchmark of sync-counters
    rows: Sequence[int] = (100_000, 1_000_000, 3_000_000)  # sizes over which memory must stay flat
    compared: int = 1_000_000  # messages of one comparison of all stores
    slow_pairs: int = 3  # of measurements that take seconds
    consumers: Sequence[tuple[int, int]] = ((1, 1), (1, 4), (1, 8), (2, 4), (2, 8), (4, 4))
    """The layouts (processes, threads) of consumers that are tried for those jobs."""
    load_pairs: int = 5  # of loads by HTTP
    seconds: int = 4  # a load by HTTP
    search_connections: int = (
        64  # of a load of searches, which a slow machine answers 503 if they are many
    )
    large_application_chats: int = 100_000  # chats of the large application
    page_messages: int = 100_000  # messages of the chat whose pages are read
    gateway: bool = True  # whether to build the baselines in Go, which takes a minute each
    reindexed: int = 400_000  # messages a reindex
    million: int = 1_000_000  # messages of the benchmarks that run once, at a large size
    keywords: int = 100
    warm_seconds: float = 20.0  # of warming up a new Elasticsearch before measuring
    long_pairs: int = 3  # of measurements that take minutes
    steady_seconds: float = 20.0  # of a steady load


QUICK_SCALE = Scale(
    pairs=2,
    startup_pairs=2,
    messages=2_000,
    jobs=60,
    rows=(2_000, 6_000),
    compared=2_000,
    slow_pairs=2,
    chats=2_000,
    consumers=((1, 2), (2, 2)),
    reindexed=5_000,
    million=20_000,
    keywords=10,
    warm_seconds=0.2,
    long_pairs=2,
    steady_seconds=3.0,
    load_pairs=1,
    seconds=1,
    large_application_chats=1_000,
    page_messages=2_000,
    gateway=False,
)


class TargetChat(NamedTuple):
    """A chat to send to: its token and number, the id of its row, and the shard of its log."""

    token: str
    number: int
    id: int
    shard: int


class Environment:
    """A backend on engines of its own, with a chat and real texts for its messages."""

    def __init__(self, backend: Backend, scale: Scale) -> None:
        self.backend = backend
        self.scale = scale
        self.texts = list(islice(cycle(lines()), scale.messages))
        self.chat = self._new_chat()

    def accept_one_by_one(self, texts: Sequence[str]) -> None:
        """Accept one request a message; each becomes one entry of the log, as separate requests do."""
        parent = Parent(self.chat.token, self.chat.number)
        known = EntryId(0, 0)
        for start in range(0, len(texts), REQUESTS_PER_CALL):
            creations = [
                Creation("messages", parent, pack_messages(*self.chat[:2], [text]))
                for text in texts[start : start + REQUESTS_PER_CALL]
            ]
            outcome = self.backend.log.accept(self.chat.shard, creations, known)
            known = outcome.end
            if any(isinstance(answer, Refusal) for answer in outcome.answers):
                raise Failed("a message of the benchmark was refused")

    def accept_concurrently(self, texts: Sequence[str], concurrency: int) -> None:
        """Accept one request a message, `concurrency` requests at a time."""
        token, number = self.chat.token, self.chat.number
        for start in range(0, len(texts), concurrency):
            requests = [
                AcceptRequest.messages(token, number, [text])
                for text in texts[start : start + concurrency]
            ]
            for answer in self.backend.acceptor.accept_batch(requests):
                if isinstance(answer, InstaChatError):
                    raise answer

    def accept_batches(self, texts: Sequence[str]) -> None:
        """Accept requests of a thousand messages, as `messages create -` sends them."""
        for start in range(0, len(texts), BATCH_SIZE):
            request = AcceptRequest.messages(
                self.chat.token, self.chat.number, texts[start : start + BATCH_SIZE]
            )
            self.backend.acceptor.accept(request)

    def drain(self) -> None:
        """Store all accepted messages of the chat's shard."""
        self.backend.drainer.drain(self.chat.shard)

    def count_messages(self) -> int:
        """How many messages are stored."""
        with self.backend.database.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM message")) or 0)

    def clear_messages(self, expected: int) -> None:
        """Empty the table of messages. Raises Failed if it did not hold the expected number."""
        found = self.count_messages()
        with self.backend.database.begin() as tx:
            tx.execute(text("TRUNCATE message, message_block"))
        if found != expected:
            raise Failed(f"{found:,} messages were stored instead of {expected:,}")

    def clear_log(self) -> None:
        """Empty the logs of all shards, as if all of their entries were stored and kept long enough."""
        log = self.backend.log
        for shard, end in log.ends(self.backend.database.installation.all_shards).items():
            if end.entry.epoch:
                with self.backend.database.begin() as tx:
                    numbers = shards.advance(
                        tx, shard, ShardProgress.of(end.entry, {}), dropped=0, stored=0
                    )
                log.trim(shard, end.entry.epoch, DrainedLog(end.entry, numbers), max_entries=0)

    def check_consistent(self) -> None:
        """Run a reconciliation. Raises Failed if it finds a difference."""
        for finding in self.backend.reconciler.begin().findings():
            raise Failed(f"the stores of a benchmark differ: {finding}")

    @property
    def redis(self) -> Any:
        """The Redis client that the log uses."""
        return self.backend.log.redis

    @property
    def driver_url(self) -> str:
        """The URL of the database for other drivers, without the options that only libpq knows."""
        url = self.backend.database.engine.url.set(drivername="postgresql")
        return url.difference_update_query(LOST_CONNECTION_OPTIONS).render_as_string(
            hide_password=False
        )

    @contextmanager
    def connection(self) -> Iterator["psycopg2.extensions.connection"]:
        """A psycopg2 connection with autocommit; its transactions are durable, as the drain's are."""
        with closing(psycopg2.connect(self.driver_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET synchronous_commit = on")
            yield connection

    def _new_chat(self) -> TargetChat:
        token = self.backend.catalog.applications.create("benchmark").token
        number = self.backend.acceptor.accept(AcceptRequest.chats(token)).first
        shard = self.backend.counters.shard(token)
        self.backend.drainer.drain(shard)
        with self.backend.database.connect() as connection:
            id_, _ = chats.chat_ids(connection, [(token, number)])[token, number]
        return TargetChat(token, number, id_, shard)


@contextmanager
def open_environment(settings: Settings, scale: Scale) -> Iterator[Environment]:
    """An environment on the engines of the settings, or on private ones; it is removed with the context.

    Raises Invalid if the Redis of the settings is not empty.
    """
    with ExitStack() as stack:
        home = stack.enter_context(_temporary_home())
        urls = stack.enter_context(engine_urls(settings.model_copy(update={"home": home})))
        if urls.engines:
            stack.callback(urls.engines.close, wait=True)
        own_settings = settings.model_copy(
            update={
                "home": home,
                "database_url": stack.enter_context(_temporary_database(urls)),
                "redis_url": urls.redis,
                "huey_url": urls.huey,
            }
        )
        backend = stack.enter_context(open_backend(own_settings))
        stack.enter_context(_empty_redis(backend))
        if backend.index:
            stack.callback(_drop_indices, backend, backend.index)
        yield Environment(backend, scale)


@contextmanager
def _temporary_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="instachat-bench-"))
    if os.geteuid() == 0:
        home.chmod(0o711)  # root runs the engines as another user, which must be able to enter
    try:
        yield home
    finally:
        for _ in range(50):  # an engine that is ending may still write its last files
            shutil.rmtree(home, ignore_errors=True)
            if not home.exists():
                break
            time.sleep(0.1)


@contextmanager
def _temporary_database(urls: EngineUrls) -> Iterator[str]:
    """A new, migrated database on the same server; dropped with the context."""
    name = f"instachat_bench_{uuid4().hex[:12]}"
    server = Database(urls.database)
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            url = make_url(urls.database).set(database=name).render_as_string(hide_password=False)
            database = Database(url)
            upgrade(database)
            database.close()
            yield url
        finally:
            with server.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        server.close()


def _drop_indices(backend: Backend, index: SearchIndex) -> None:
    with backend.database.connect() as connection:
        for row in search_indices.list_indices(connection):
            index.drop(row.name)


@contextmanager
def _empty_redis(backend: Backend) -> Iterator[None]:
    backend.log.ping()
    if backend.log.redis.dbsize():
        raise Invalid(
            "this Redis is in use, and benchmarks need an empty one; nothing was changed",
            "unset INSTACHAT_REDIS_URL to use a private Redis that is removed afterwards",
        )
    try:
        yield
    finally:
        backend.log.redis.flushdb()
