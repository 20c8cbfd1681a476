"""What the benchmarks stand on: engines and a database of their own, and messages to send.

Nothing is left behind. Private engines live in a temporary folder. Where engines are given by settings, the
database is one more on that server, dropped at the end, and Redis has to be empty, and is so again; indices
in Elasticsearch are those of that database, and dropped with it.
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
from backend.storage.postgres import chats, search_indices
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.redis.types import Creation, Refusal
from backend.storage.search_index import SearchIndex
from loadtest.corpus.conversations import conversations

REQUESTS_PER_CALL = 500  # of one message each, given to Redis in one call while the log is filled
CONCURRENT_REQUESTS = 64  # requests of one message that wait at the same moment
BATCH_SIZE = 1_000  # messages of a bulk request, as `messages create -` sends them


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    pairs: int = 7
    startup_pairs: int = 15  # pairs of the command line's start, which is quick
    messages: int = 30_000  # of one repetition
    jobs: int = 1_500  # of one repetition, where each message is a job
    chats: int = 1_000_000  # whose counters are synced
    rows: Sequence[int] = (100_000, 1_000_000, 3_000_000)  # over which a memory has to be flat
    compared: int = 1_000_000  # messages, of one comparison of all stores
    slow_pairs: int = 3  # pairs of what takes seconds
    consumers: Sequence[tuple[int, int]] = ((1, 1), (1, 4), (1, 8), (2, 4), (2, 8), (4, 4))
    """How many consumer processes of how many threads are tried for those jobs."""
    load_pairs: int = 5  # pairs of loads by HTTP
    seconds: int = 4  # of one such load
    large_application_chats: int = 100_000  # chats of an application that has very many
    gateway: bool = True  # whether the rival in Go is built, which takes a minute
    reindexed: int = 400_000  # messages of one reindex
    million: int = 1_000_000  # of what is done at a large size, once
    keywords: int = 100
    warm_seconds: float = 20.0  # of what a new Elasticsearch gets quicker at, before what counts
    long_pairs: int = 3  # of what takes long
    steady_seconds: float = 20.0  # of a load that goes on


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
    gateway=False,
)


class TargetChat(NamedTuple):
    """A chat to send to: by its names, by its row, and where its log is."""

    token: str
    number: int
    id: int
    shard: int


class Environment:
    """A backend on engines that nobody else uses, a chat in it, and real texts for its messages."""

    def __init__(self, backend: Backend, scale: Scale) -> None:
        self.backend = backend
        self.scale = scale
        lines = [line for conversation in conversations() for line in conversation.lines]
        self.texts = list(islice(cycle(lines), scale.messages))
        self.chat = self._new_chat()

    def accept_one_by_one(self, texts: Sequence[str]) -> None:
        """Accept a request a message, each an entry of its own, as those that come one after another are."""
        parent = Parent(self.chat.token, self.chat.number)
        known = EntryId(0, 0)
        for start in range(0, len(texts), REQUESTS_PER_CALL):
            creations = [
                Creation("messages", parent, pack_messages(*self.chat[:2], [text]))
                for text in texts[start : start + REQUESTS_PER_CALL]
            ]
            answers, known, _ = self.backend.log.accept(self.chat.shard, creations, known)
            if any(isinstance(answer, Refusal) for answer in answers):
                raise Failed("a message of the benchmark was refused")

    def accept_concurrently(self, texts: Sequence[str], concurrency: int) -> None:
        """Accept a request a message, so many at the same moment."""
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
        """Store what was accepted."""
        self.backend.drainer.drain(self.chat.shard)

    def clear_messages(self, expected: int | None = None) -> None:
        """Empty the table of messages. With `expected`, Failed if it held any other number of them."""
        with self.backend.database.begin() as tx:
            found = tx.scalar(text("SELECT count(*) FROM message"))
            tx.execute(text("TRUNCATE message"))
        if expected is not None and found != expected:
            raise Failed(f"{found:,} messages were stored instead of {expected:,}")

    def clear_log(self) -> None:
        """Empty the log, as if all of it had been stored."""
        self.redis.xtrim(self.backend.log.key(self.chat.shard, "log"), maxlen=0, approximate=False)

    @property
    def redis(self) -> Any:
        """The very client that the log uses."""
        return self.backend.log.redis

    @property
    def driver_url(self) -> str:
        """The database's URL as the driver itself reads it."""
        url = make_url(self.backend.database.url).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    @contextmanager
    def connection(self) -> Iterator["psycopg2.extensions.connection"]:
        """A connection of the driver's own: each statement is a transaction, durable as the drain's."""
        with closing(psycopg2.connect(self.driver_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET synchronous_commit = on")
            yield connection

    def _new_chat(self) -> TargetChat:
        token = self.backend.catalog.create_application("benchmark").token
        number = self.backend.acceptor.accept(AcceptRequest.chats(token)).first
        shard = self.backend.counters.shard(token)
        self.backend.drainer.drain(shard)
        with self.backend.database.connect() as connection:
            id_, _ = chats.chat_ids(connection, [(token, number)])[token, number]
        return TargetChat(token, number, id_, shard)


@contextmanager
def open_environment(settings: Settings, scale: Scale) -> Iterator[Environment]:
    """Environment of one's own on the settings' engines, or on private ones; gone afterwards.

    Raises Invalid if the Redis that is given is in use.
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
        home.chmod(0o711)  # as root the engines run as another user, who must pass through
    try:
        yield home
    finally:
        for _ in range(50):  # an engine may still be writing its last files
            shutil.rmtree(home, ignore_errors=True)
            if not home.exists():
                break
            time.sleep(0.1)


@contextmanager
def _temporary_database(urls: EngineUrls) -> Iterator[str]:
    """A database beside the one that is given, with the default schema."""
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
            "unset INSTACHAT_REDIS_URL: then a private one is started, and gone afterwards",
        )
    try:
        yield
    finally:
        backend.log.redis.flushdb()
