"""Measures designs of the search index on a real Elasticsearch, and PostgreSQL's scan beside them.

    .venv/bin/python -m tools.measure_index [--messages 200000] [--designs NAME …] [--out FILE]

Each design gets an index of its own with the same messages: real conversations, varied, in chats of all
sizes, one of 5,000 and one of 100,000 among them. Printed for each: how fast prebuilt bulks go in, the
size (as it grew, and merged), and how long a first page of 50 takes for keywords of 1, 2, 3, 5 and 20
letters, rare and frequent: from the keyword to the rows in hand. Candidates come from the index by number,
page after page, and PostgreSQL, which has the rows, has the last word on each. Every page is held against
PostgreSQL's scan; a difference ends the run.

The machine's other work shows: compare within one run, and the engine's processor time, where it shows
less.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch
from sqlalchemy import text

from backend.domain.folding import fold
from backend.storage.postgres import messages
from backend.storage.postgres.database import Database
from backend.storage.postgres.messages import MessageRow
from backend.storage.postgres.schema_upgrade import upgrade
from loadtest.corpus.conversations import conversations
from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import installation
from tests.support.engines import PostgresServer, wheel_postgres

SEED = 20_261_124
PAGE = 50
BULK_DOCUMENTS = 2_500  # documents in one request
CONCURRENT_BULKS = 2
MAX_GRAMS = 32  # of one query; what they let through is verified
SIZES = {"5k": 5_000, "100k": 100_000}  # the two chats that are searched, numbers 1 and 2
VERSION = 1_767_225_600_000_000  # of the first message: microseconds, as all of them
LENGTHS = (1, 2, 3, 5, 20)
KEYWORDS = 8  # of each length and kind, in each chat
REPEATS = 6

Clauses = list[dict[str, Any]]


# -- the designs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """One way to index: what is said of the text's field, and how a keyword is asked for."""

    name: str
    fields: dict[str, Any]
    clauses: Callable[[str], Clauses]
    analysis: tuple[int, ...] = ()  # grams of these lengths, each an analyser `grams_MIN_MAX`
    sorted_by_chat: bool = True
    source: bool = False
    shards: int = 1
    pad: str = ""  # behind each text
    by_routing: bool = False  # the chat is a number, and filtered by the routing

    def body(self) -> dict[str, Any]:
        """What creates its index."""
        low, high = (min(self.analysis), max(self.analysis)) if self.analysis else (1, 1)
        index: dict[str, Any] = {
            "number_of_shards": self.shards,
            "number_of_replicas": 0,
            "refresh_interval": "1s",
            "max_ngram_diff": high - low,
        }
        if self.sorted_by_chat:
            index["sort"] = {"field": ["chat", "number"], "order": ["asc", "asc"]}
        grams = {"type": "ngram", "min_gram": low, "max_gram": high}
        ones = {"type": "ngram", "min_gram": 1, "max_gram": 1}
        return {
            "settings": {
                "index": index,
                "analysis": {
                    "tokenizer": {"grams": grams, "ones": ones},
                    "analyzer": {
                        "grams": {"type": "custom", "tokenizer": "grams"},
                        "ones": {"type": "custom", "tokenizer": "ones"},
                    },
                },
            },
            "mappings": {
                "dynamic": "strict",
                "_source": {"enabled": self.source},
                "_routing": {"required": True},
                "properties": {
                    "chat": {"type": "long", "index": False}
                    if self.by_routing
                    else {"type": "keyword"},
                    "number": {"type": "long", "index": False},
                    **self.fields,
                },
            },
        }

    def query(self, chat: int, keyword: str, after: int, size: int) -> dict[str, Any]:
        """What asks for candidates behind a number."""
        by_chat = self.sorted_by_chat
        chat_filter = {"_routing" if self.by_routing else "chat": str(chat)}
        return {
            "query": {
                "bool": {"filter": [{"term": chat_filter}, *self.clauses(keyword)]},
            },
            "sort": ["chat", "number"] if by_chat else ["number"],
            "search_after": [str(chat), after] if by_chat else [after],
            "size": size,
            "track_total_hits": False,
            "_source": False,
        }


def grams_of(keyword: str, size: int) -> list[str]:
    """The keyword's different grams; when there are too many some, evenly spread."""
    grams = list(dict.fromkeys(keyword[at : at + size] for at in range(len(keyword) - size + 1)))
    if len(grams) <= MAX_GRAMS:
        return grams
    return [grams[at * len(grams) // MAX_GRAMS] for at in range(MAX_GRAMS)]


def all_of(size: int) -> Callable[[str], Clauses]:
    """Every gram of that size, or of the keyword's own if it is shorter, somewhere in the text."""
    return lambda keyword: [
        {"term": {"text": gram}} for gram in grams_of(keyword, min(size, len(keyword)))
    ]


def phrase(size: int) -> Callable[[str], Clauses]:
    """The keyword's grams one behind the other; single letters in a field of their own."""

    def clauses(keyword: str) -> Clauses:
        if len(keyword) < size:
            return [{"term": {"ones": keyword}}]
        return [{"match_phrase": {"text": keyword[: MAX_GRAMS + size - 1]}}]

    return clauses


def all_of_or_prefix(keyword: str) -> Clauses:
    """Trigrams; what is shorter is the beginning of one."""
    if len(keyword) < 3:
        return [{"prefix": {"text": keyword}}]
    return all_of(3)(keyword)


def wildcard(keyword: str) -> Clauses:
    """The keyword anywhere in one long term."""
    escaped = "".join(f"\\{char}" if char in "*?\\" else char for char in keyword)
    return [{"wildcard": {"text": {"value": f"*{escaped}*"}}}]


def _grams(index_options: str) -> dict[str, Any]:
    return {
        "type": "text",
        "analyzer": "grams",
        "index_options": index_options,
        "norms": False,
    }


_ONES = {"type": "text", "analyzer": "ones", "index_options": "docs", "norms": False}
_DOCS = {"text": _grams("docs")}
_POSITIONS = {"text": _grams("positions"), "ones": _ONES}

DESIGNS = [
    Design("2 docs", _DOCS, all_of(2), (1, 2)),
    Design("3 docs", _DOCS, all_of(3), (1, 3)),
    Design("2 phrase", _POSITIONS, phrase(2), (2,)),
    Design("3 prefix", _DOCS, all_of_or_prefix, (3,), pad="\0\0"),
    Design(
        "wildcard", {"text": {"type": "keyword", "doc_values": False}}, wildcard
    ),  # on the text as one term
    Design(
        "words", {"text": {"type": "text", "norms": False}}, wildcard
    ),  # finds within words only
    Design("3 docs, _routing", _DOCS, all_of(3), (1, 3), by_routing=True),
    Design("2 docs, unsorted", _DOCS, all_of(2), (1, 2), sorted_by_chat=False),
    Design("3 docs, unsorted", _DOCS, all_of(3), (1, 3), sorted_by_chat=False),
    Design("2 docs, _source", _DOCS, all_of(2), (1, 2), source=True),
    Design("2 docs, 2 shards", _DOCS, all_of(2), (1, 2), shards=2),
]
INEXACT_DESIGNS = {"words"}


# -- the messages ---------------------------------------------------------------------------------


def chats(messages: int) -> Iterator[tuple[int, list[str]]]:
    """Chat after chat with its folded texts, in one language each; the two big ones in English."""
    rng = random.Random(SEED)
    lines: dict[str, list[str]] = {}
    for conversation in conversations():
        lines.setdefault(conversation.language, []).extend(map(fold, conversation.lines))
    languages = sorted(lines)
    left, number = messages, 0
    sizes = list(SIZES.values())
    while left > 0:
        size = sizes[number] if number < len(sizes) else int(rng.lognormvariate(5, 1.5)) + 1
        size = min(size, left)
        spoken = lines["english" if number < len(sizes) else rng.choice(languages)]
        number, left = number + 1, left - size
        yield number, [random_text(spoken, rng) for _ in range(size)]


def random_text(spoken: list[str], rng: random.Random) -> str:
    """A line, or two, some with a number of their own."""
    parts = rng.choices(spoken, k=rng.choice((1, 2, 2)))
    if rng.random() < 0.2:
        parts.append(f"#{rng.randrange(10**6)}")
    return " ".join(parts)


def keywords(texts: list[str], rng: random.Random) -> dict[tuple[int, str], list[str]]:
    """Keywords cut from the texts, by length and kind: of many, those in fewest and in most texts."""
    sample = rng.sample(texts, min(len(texts), 5_000))
    chosen = {}
    for length in LENGTHS:
        pool = set()
        for _ in range(400):
            line = rng.choice(texts)
            if len(line) >= length:
                at = rng.randrange(len(line) - length + 1)
                pool.add(line[at : at + length])
        ranked = sorted(pool, key=lambda word: (sum(word in line for line in sample), word))
        chosen[length, "rare"] = ranked[:KEYWORDS]
        chosen[length, "frequent"] = ranked[-KEYWORDS:]
    return chosen


# -- the work -------------------------------------------------------------------------------------


def fill_postgres(database: Database, all_chats: dict[int, list[str]]) -> None:
    """The same messages as rows, by the program's own COPY."""
    for chat, texts in all_chats.items():
        with database.begin() as tx:
            messages.copy_messages(
                tx,
                (
                    MessageRow(chat, number, line, line, VERSION + number)
                    for number, line in enumerate(texts, 1)
                ),
            )
    with database.connect() as connection:
        connection.execute(text("VACUUM ANALYZE message"))


def bulks(design: Design, all_chats: dict[int, list[str]]) -> Iterator[bytes]:
    """Bodies of bulk requests, as the publisher would build them: the chats talk all at once."""
    chat_order = [chat for chat, texts in all_chats.items() for _ in texts]
    random.Random(SEED).shuffle(chat_order)
    spoken = {chat: enumerate(texts, 1) for chat, texts in all_chats.items()}
    lines: list[str] = []
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
        lines.append(json.dumps({"index": action}))
        lines.append(json.dumps(document, ensure_ascii=False))
        if len(lines) == 2 * BULK_DOCUMENTS:
            yield ("\n".join(lines) + "\n").encode()
            lines.clear()
    if lines:
        yield ("\n".join(lines) + "\n").encode()


def fill_index(client: Elasticsearch, design: Design, bodies: list[bytes]) -> float:
    """Seconds that the bulks took."""

    def send(body: bytes) -> None:
        answer = client.perform_request(
            "POST",
            "/measured/_bulk",
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
    """The first page's numbers, and how many requests it took."""
    found: list[int] = []
    after, size, requests = 0, PAGE + 10, 0
    while True:
        requests += 1
        answer = client.search(
            index="measured", routing=str(chat), body=design.query(chat, keyword, after, size)
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
    """The first page's numbers, by the program's scan."""
    with database.connect() as connection:
        return [
            found.number for found in messages.search_messages(connection, chat, keyword, 0, PAGE)
        ]


def engine_cpu_seconds(server: ElasticsearchServer) -> float:
    """Seconds of processor time that the engine has taken: what others do shows less in it."""
    engine = server.engine()
    assert engine
    times = engine.cpu_times()
    return times.user + times.system


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return round(cuts[49] * 1000, 1), round(cuts[98] * 1000, 1)


def timed(searches: list[Callable[[], object]]) -> tuple[float, float]:
    """Quantiles of the searches, after one round to warm up."""
    seconds = []
    for repeat in range(REPEATS + 1):
        for one in searches:
            started = time.perf_counter()
            one()
            if repeat:
                seconds.append(time.perf_counter() - started)
    return quantiles(seconds)


class Measurement:
    """One run: the messages, the engines, and what is asked of every design."""

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
        """Let the engine compile what the designs use, or the first of them would pay for it."""
        small = Measurement(50_000, None)
        small.expected = self.expected
        small.prints = False
        for design in DESIGNS[:4]:
            small.design(server, database, design)

    def report(self, **figures: object) -> None:
        """One line of the report."""
        line = json.dumps(figures, ensure_ascii=False)
        if not self.prints:
            return
        print(line, flush=True)
        if self.out:
            with self.out.open("a") as output:
                output.write(line + "\n")

    def scan(self, database: Database) -> None:
        """What every design is held against."""
        times = {}
        for (chat_name, length, kind), words in self.keyword_cases.items():
            chat = list(SIZES).index(chat_name) + 1
            for word in words:
                self.expected[chat, word] = scan(database, chat, word)
            times[f"{chat_name} {length} {kind}"] = timed(
                [lambda chat=chat, word=word: scan(database, chat, word) for word in words]  # type: ignore[misc]
            )
        self.report(design="scan in PostgreSQL", p50_p99_ms=times)

    def design(self, server: ElasticsearchServer, database: Database, design: Design) -> None:
        """All figures of one design."""
        client = Elasticsearch(server.url, request_timeout=120, max_retries=0)
        client.options(ignore_status=404).indices.delete(index="measured")
        client.indices.create(index="measured", **design.body())
        # Built in slices, so that a million messages do not lie in memory twice; not counted.
        seconds, before = 0.0, engine_cpu_seconds(server)
        slice_: list[bytes] = []
        for body in bulks(design, self.chats):
            slice_.append(body)
            if len(slice_) == 20:
                seconds += fill_index(client, design, slice_)
                slice_.clear()
        seconds += fill_index(client, design, slice_)
        client.indices.refresh(index="measured")
        filling = engine_cpu_seconds(server) - before
        grown = self.size(client)
        client.options(request_timeout=900).indices.forcemerge(index="measured", max_num_segments=5)
        client.indices.refresh(index="measured")
        times, requests, engine = {}, {}, {}
        for (chat_name, length, kind), words in self.keyword_cases.items():
            chat = list(SIZES).index(chat_name) + 1
            key = f"{chat_name} {length} {kind}"
            max_needed = 0
            for word in words:
                found, needed = search(client, database, design, chat, word)
                max_needed = max(max_needed, needed)
                if found != self.expected[chat, word] and design.name not in INEXACT_DESIGNS:
                    raise SystemExit(f"{design.name}: another result for {word!r} in chat {chat}")
            before = engine_cpu_seconds(server)
            times[key] = timed(
                [
                    lambda chat=chat, word=word: search(client, database, design, chat, word)  # type: ignore[misc]
                    for word in words
                ]
            )
            engine[key] = round(
                (engine_cpu_seconds(server) - before) * 1000 / (REPEATS + 1) / len(words), 1
            )
            requests[key] = max_needed
        self.report(
            design=design.name,
            messages=self.count,
            bulk_per_second=round(self.count / seconds),
            bulk_cpu_us=round(filling * 1e6 / self.count),
            mb_per_million=round(grown / self.count),
            merged_mb_per_million=round(self.size(client) / self.count),
            p50_p99_ms=times,
            engine_cpu_ms=engine,
            most_requests=requests,
        )
        client.indices.delete(index="measured")
        client.close()

    def size(self, client: Elasticsearch) -> int:
        """Bytes of the index on disk."""
        client.indices.flush(index="measured")
        total: int = client.indices.stats(index="measured")["_all"]["primaries"]["store"][
            "size_in_bytes"
        ]
        return total


def main() -> None:
    """Measure the designs one after the other, on engines of our own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--designs", nargs="*", choices=[design.name for design in DESIGNS])
    parser.add_argument("--heap", default="1g")
    parser.add_argument("--out", type=Path, help="append the lines to this file as well")
    options = parser.parse_args()
    measurement = Measurement(options.messages, options.out)
    postgres = PostgresServer(wheel_postgres())
    server = ElasticsearchServer(installation(), heap=options.heap, fast_start=False)
    try:
        postgres.start()
        database = Database(postgres.url())
        upgrade(database)
        fill_postgres(database, measurement.chats)
        measurement.scan(database)
        server.start()
        measurement.warm_up(server, database)
        designs = {design.name: design for design in DESIGNS}
        for name in options.designs or designs:
            measurement.design(server, database, designs[name])
        database.close()
    finally:
        server.remove()
        postgres.remove()


if __name__ == "__main__":
    main()
