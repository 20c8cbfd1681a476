"""Measures designs on a running Elasticsearch, and PostgreSQL's scan on the same messages."""

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch
from sqlalchemy import text

from backend.storage.postgres import messages
from backend.storage.postgres.database import Database
from backend.storage.postgres.messages import MessageRow
from instachat_cli.bench.harness.elasticsearch import bulk_bodies, to_json
from tests.support.elasticsearch.node import ElasticsearchServer
from tools.measure_index.corpus import SEED, SIZES, chats, keywords
from tools.measure_index.designs import DESIGNS, INEXACT_DESIGNS, Design

INDEX = "measured"
PAGE = 50
CONCURRENT_BULKS = 2
BULKS_PER_SLICE = 20
VERSION = 1_767_225_600_000_000  # of the first message, in microseconds
REPEATS = 6


def fill_postgres(database: Database, all_chats: dict[int, list[str]]) -> None:
    """Store the messages as rows, by the program's COPY."""
    for chat, texts in all_chats.items():
        with database.begin() as tx:
            messages.copy_messages(
                tx,
                (
                    MessageRow.new(chat, number, line, VERSION + number)
                    for number, line in enumerate(texts, 1)
                ),
            )
    with database.connect() as connection:
        connection.execute(text("VACUUM ANALYZE message"))


def bulks(design: Design, all_chats: dict[int, list[str]]) -> Iterator[bytes]:
    """Bodies of bulk requests as the publisher would build them: the chats are interleaved."""
    return bulk_bodies(_document_lines(design, all_chats))


def _document_lines(design: Design, all_chats: dict[int, list[str]]) -> Iterator[str]:
    chat_order = [chat for chat, texts in all_chats.items() for _ in texts]
    random.Random(SEED).shuffle(chat_order)
    spoken = {chat: enumerate(texts, 1) for chat, texts in all_chats.items()}
    for chat in chat_order:
        number, line = next(spoken[chat])
        action = {
            "_id": f"{chat}-{number}",
            "routing": str(chat),
            "version": VERSION + number,
            "version_type": "external",
        }
        document: dict[str, Any] = {"chat": chat, "number": number}
        for name in design.fields:
            document[name] = line + design.pad
        yield f"{to_json({'index': action})}\n{to_json(document)}\n"


def fill_index(client: Elasticsearch, design: Design, bodies: list[bytes]) -> float:
    """Send the bulks; returns the seconds that it took."""

    def send(body: bytes) -> None:
        answer = client.perform_request(
            "POST",
            f"/{INDEX}/_bulk",
            headers={"content-type": "application/x-ndjson", "accept": "application/json"},
            body=body,
        )
        if answer["errors"]:
            bad = next(item for item in answer["items"] if item["index"]["status"] >= 300)
            raise SystemExit(f"{design.name}: {bad}")

    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT_BULKS) as pool:
        list(pool.map(send, bodies))
    return time.perf_counter() - started


def search(
    client: Elasticsearch, database: Database, design: Design, chat: int, keyword: str
) -> tuple[list[int], int]:
    """The numbers on the first page, and how many requests it took."""
    found: list[int] = []
    after, size, requests = 0, PAGE + 10, 0
    while True:
        requests += 1
        answer = client.search(
            index=INDEX, routing=str(chat), body=design.query(chat, keyword, after, size)
        )
        candidates = [hit["sort"][-1] for hit in answer["hits"]["hits"]]
        if candidates:
            with database.connect() as connection:
                found += connection.scalars(
                    VERIFY, {"chat": chat, "numbers": candidates, "keyword": keyword}
                )
            after = candidates[-1]
        if len(found) >= PAGE or len(candidates) < size:
            return found[:PAGE], requests
        size = min(size * 4, 1_000)


VERIFY = text(
    """
    SELECT number FROM message
    WHERE chat_id = :chat AND number = ANY(:numbers) AND state = 'stored'
      AND strpos(folded COLLATE "C", :keyword) > 0
    ORDER BY number"""
)


def scan(database: Database, chat: int, keyword: str) -> list[int]:
    """The numbers on the first page, by the program's scan."""
    with database.connect() as connection:
        return [
            found.number for found in messages.search_messages(connection, chat, keyword, 0, PAGE)
        ]


def engine_cpu_seconds(server: ElasticsearchServer) -> float:
    """The processor time of the engine so far; other programs affect it less than elapsed time."""
    engine = server.engine()
    assert engine
    times = engine.cpu_times()
    return times.user + times.system


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return round(cuts[49] * 1000, 1), round(cuts[98] * 1000, 1)


def timed(searches: list[Callable[[], object]]) -> tuple[float, float]:
    """The quantiles of the searches, after one round of warming up."""
    seconds = []
    for repeat in range(REPEATS + 1):
        for one in searches:
            started = time.perf_counter()
            one()
            if repeat:
                seconds.append(time.perf_counter() - started)
    return quantiles(seconds)


class Measurement:
    """One run: its messages, its keywords, and the results that every design must return."""

    def __init__(self, messages: int, out: Path | None) -> None:
        self.out = out
        self.prints = True
        self.chats = dict(chats(messages))
        self.count = messages
        rng = random.Random(SEED)
        self.keyword_cases = {
            (name, length, kind): words
            for chat, name in enumerate(SIZES, 1)
            if len(self.chats.get(chat, ())) == SIZES[name]
            for (length, kind), words in keywords(self.chats[chat], rng).items()
        }
        self.expected: dict[tuple[int, str], list[int]] = {}

    def warm_up(self, server: ElasticsearchServer, database: Database) -> None:
        """Let the engine compile the code of all designs, so that the first one is not slower."""
        small = Measurement(50_000, None)
        small.expected = self.expected
        small.prints = False
        for design in DESIGNS[:4]:
            small.design(server, database, design)

    def report(self, **figures: object) -> None:
        """Print one line of JSON, and append it to the file if there is one."""
        line = json.dumps(figures, ensure_ascii=False)
        if not self.prints:
            return
        print(line, flush=True)
        if self.out:
            with self.out.open("a") as output:
                output.write(line + "\n")

    def scan(self, database: Database) -> None:
        """Measure PostgreSQL's scan, whose results every design must return."""
        times = {}
        for (chat_name, length, kind), words in self.keyword_cases.items():
            chat = list(SIZES).index(chat_name) + 1
            for word in words:
                self.expected[chat, word] = scan(database, chat, word)
            times[f"{chat_name} {length} {kind}"] = timed(
                [partial(scan, database, chat, word) for word in words]
            )
        self.report(design="scan in PostgreSQL", p50_p99_ms=times)

    def design(self, server: ElasticsearchServer, database: Database, design: Design) -> None:
        """Measure one design: indexing, size, and searches."""
        client = Elasticsearch(server.url, request_timeout=120, max_retries=0)
        client.options(ignore_status=404).indices.delete(index=INDEX)
        client.indices.create(index=INDEX, **design.body())
        indexing = self._index(client, server, design)
        searches = self._search(client, server, database, design)
        self.report(design=design.name, messages=self.count, **indexing, **searches)
        client.indices.delete(index=INDEX)
        client.close()

    def _index(
        self, client: Elasticsearch, server: ElasticsearchServer, design: Design
    ) -> dict[str, object]:
        # Built in slices, so that a million messages are not in memory twice. Building is not timed.
        seconds, before = 0.0, engine_cpu_seconds(server)
        bodies = bulks(design, self.chats)
        while part := list(islice(bodies, BULKS_PER_SLICE)):
            seconds += fill_index(client, design, part)
        client.indices.refresh(index=INDEX)
        cpu_seconds = engine_cpu_seconds(server) - before
        size = index_size(client)
        client.options(request_timeout=900).indices.forcemerge(index=INDEX, max_num_segments=5)
        client.indices.refresh(index=INDEX)
        return {
            "bulk_per_second": round(self.count / seconds),
            "bulk_cpu_us": round(cpu_seconds * 1e6 / self.count),
            "mb_per_million": round(size / self.count),
            "merged_mb_per_million": round(index_size(client) / self.count),
        }

    def _search(
        self,
        client: Elasticsearch,
        server: ElasticsearchServer,
        database: Database,
        design: Design,
    ) -> dict[str, object]:
        times, requests, engine = {}, {}, {}
        for (chat_name, length, kind), words in self.keyword_cases.items():
            chat = list(SIZES).index(chat_name) + 1
            key = f"{chat_name} {length} {kind}"
            requests[key] = max(self._verify(client, database, design, chat, w) for w in words)
            before = engine_cpu_seconds(server)
            times[key] = timed(
                [partial(search, client, database, design, chat, word) for word in words]
            )
            cpu_seconds = engine_cpu_seconds(server) - before
            engine[key] = round(cpu_seconds * 1000 / (REPEATS + 1) / len(words), 1)
        return {"p50_p99_ms": times, "engine_cpu_ms": engine, "most_requests": requests}

    def _verify(
        self, client: Elasticsearch, database: Database, design: Design, chat: int, word: str
    ) -> int:
        """Compare a search with the scan; returns how many requests it took."""
        found, requests = search(client, database, design, chat, word)
        if found != self.expected[chat, word] and design.name not in INEXACT_DESIGNS:
            raise SystemExit(f"{design.name}: a different result for {word!r} in chat {chat}")
        return requests


def index_size(client: Elasticsearch) -> int:
    """The size of the index on disk, in bytes."""
    client.indices.flush(index=INDEX)
    stats = client.indices.stats(index=INDEX)
    size: int = stats["_all"]["primaries"]["store"]["size_in_bytes"]
    return size
