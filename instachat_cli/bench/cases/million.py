"""A million messages: the memory of a reindex, and the time of a search in one large chat.

One baseline of a search is the obvious design: the whole folded text as one keyword, and a wildcard query
with a star on either side. It finds the same messages. The other is the scan in PostgreSQL, by which the
program searches without Elasticsearch.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle
from statistics import quantiles
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from backend.domain.errors import Failed
from backend.search.searcher import IndexSearcher, ScanSearcher, Searcher
from instachat_cli.bench.harness.elasticsearch import (
    SearchEnvironment,
    bulk_bodies,
    to_json,
    wildcard_pattern,
)
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.memory import peak_memory
from instachat_cli.bench.harness.messages import LARGE_CHAT_ID, SEED, store_messages
from instachat_cli.bench.harness.paired_run import Goal, Row

FLAT = Goal(must=1.15, at_most=True)
TEN_TIMES = Goal(must=0.1, at_most=True)
FETCHED_ROWS = 5_000  # at a time
PAGE = 50
LENGTHS = (2, 3, 5, 8, 20)  # of keywords
WARM_ROUNDS = 20  # of keywords, not measured
WARM_PAIRS = 8  # of these rounds, in which the two sides take turns

WILDCARD_SETTINGS = {
    "number_of_shards": 1,
    "number_of_replicas": 0,
    "refresh_interval": "1s",
    "sort": {"field": ["chat", "number"], "order": ["asc", "asc"]},
}
WILDCARD_MAPPINGS = {
    "_routing": {"required": True},
    "properties": {
        "chat": {"type": "long", "index": False},
        "number": {"type": "long", "index": False},
        "text": {"type": "keyword", "doc_values": False},
    },
}


def measure(env: Environment) -> Iterator[Row]:
    """Reindex a tenth of the messages and then all, and search in the second index."""
    elastic = SearchEnvironment(env)
    elastic.reset_index()
    few, many = env.scale.million // 10, env.scale.million
    store_messages(env, few)
    small = peak_memory(env, "reindex")
    elastic.reset_index()
    store_messages(env, many)
    large = peak_memory(env, "reindex")
    yield Row(
        f"memory of a reindex of {many:,} messages",
        "the highest memory of the process `instachat reindex`",
        f"{many:,}",
        f"{few:,} messages",
        "MiB",
        [(large, small)],
        FLAT,
    )
    yield from _searches(elastic)


def _searches(elastic: SearchEnvironment) -> Iterator[Row]:
    env = elastic.env
    database = env.backend.database
    ours = IndexSearcher(database, elastic.index)
    scan = ScanSearcher(database)
    first, *rounds = _keywords(env, 1 + WARM_ROUNDS + env.scale.pairs)
    warming = list(chain.from_iterable(rounds[: WARM_ROUNDS - WARM_PAIRS]))
    del rounds[: WARM_ROUNDS - WARM_PAIRS]
    name = f"instachat-bench-{uuid4().hex[:12]}"
    elastic.client.indices.create(
        index=name, settings=WILDCARD_SETTINGS, mappings=WILDCARD_MAPPINGS
    )
    try:
        elastic.send_bulks(name, _wildcard_requests(env))
        elastic.client.options(request_timeout=60).indices.refresh(index=name)

        def wildcard(keyword: str) -> list[int]:
            return _wildcard(elastic, name, keyword)

        def by(searcher: Searcher) -> Callable[[str], list[int]]:
            return lambda keyword: [
                m.number for m in searcher.search(LARGE_CHAT_ID, keyword, 0, PAGE).messages
            ]

        for keyword in first:
            if not by(ours)(keyword) == wildcard(keyword) == by(scan)(keyword):
                raise Failed("two ways of searching found different messages")
        for way in by(ours), wildcard, by(scan):
            _warm(way, warming, env.scale.warm_seconds)
        for baseline, search, goal in (
            ("a leading wildcard", wildcard, TEN_TIMES),
            ("PostgreSQL's scan", by(scan), None),
        ):
            yield from _measure_searches(env, rounds, by(ours), search, baseline, goal)
    finally:
        elastic.client.indices.delete(index=name)


def _measure_searches(
    env: Environment,
    rounds: Sequence[Sequence[str]],
    ours: Callable[[str], object],
    baseline: Callable[[str], object],
    name: str,
    goal: Goal | None,
) -> Iterator[Row]:
    took = [
        (_time_searches(ours, keywords), _time_searches(baseline, keywords)) for keywords in rounds
    ][WARM_PAIRS:]
    for at, what in ((49, "p50"), (98, "p99")):
        yield Row(
            f"search, {what}",
            f"first pages of {PAGE} in a chat of {env.scale.million // 10:,} messages, in an index of"
            f" {env.scale.million:,}; {len(rounds[0])} keywords of {LENGTHS[0]} to {LENGTHS[-1]} letters"
            " from its messages, new ones for each pair",
            "search",
            name,
            "ms",
            [(one[at], other[at]) for one, other in took],
            goal,
        )


def _warm(search: Callable[[str], object], keywords: Sequence[str], seconds: float) -> None:
    """Search for `seconds`: a new node needs thousands of searches to compile their code."""
    until = time.monotonic() + seconds
    for keyword in cycle(keywords):
        search(keyword)
        if time.monotonic() > until:
            break


def _time_searches(search: Callable[[str], object], keywords: Sequence[str]) -> list[float]:
    """The 1st to 99th percentiles of the times, in milliseconds."""
    took = []
    gc.collect()
    gc.freeze()  # otherwise a search would pay for traversing all objects of the benchmarks
    try:
        for keyword in keywords:
            since = time.perf_counter()
            search(keyword)
            took.append((time.perf_counter() - since) * 1000)
    finally:
        gc.unfreeze()
    return quantiles(took, n=100, method="inclusive")


def _keywords(env: Environment, rounds: int) -> list[list[str]]:
    """Substrings of the large chat's folded texts, equally many of each length, for each round.

    No keyword occurs twice, because Elasticsearch caches the results of queries, which would help the
    wildcard most.
    """
    rng = random.Random(SEED)
    with env.backend.database.connect() as connection:
        texts = connection.scalars(
            text("SELECT folded FROM message WHERE chat_id = :chat ORDER BY number"),
            {"chat": LARGE_CHAT_ID},
        ).all()
    found: dict[str, None] = {}
    each = env.scale.keywords
    while len(found) < rounds * each:
        line, length = rng.choice(texts), LENGTHS[len(found) % len(LENGTHS)]
        if len(line) >= length:
            at = rng.randrange(len(line) - length + 1)
            found[line[at : at + length]] = None
    keywords = list(found)
    return [keywords[start : start + each] for start in range(0, len(keywords), each)]


def _wildcard_requests(env: Environment) -> Iterator[bytes]:
    with env.backend.database.snapshot() as connection:
        rows = connection.execute(
            text("SELECT chat_id, number, folded FROM message ORDER BY chat_id, number"),
            execution_options={"yield_per": FETCHED_ROWS},
        )
        yield from bulk_bodies(
            f'{{"index":{{"routing":"{chat}"}}}}\n'
            f"{to_json({'chat': chat, 'number': number, 'text': folded})}\n"
            for chat, number, folded in rows
        )


def _wildcard(elastic: SearchEnvironment, name: str, keyword: str) -> list[int]:
    filters: list[dict[str, Any]] = [
        {"term": {"_routing": str(LARGE_CHAT_ID)}},
        {"wildcard": {"text": {"value": wildcard_pattern(keyword)}}},
    ]
    answer = elastic.client.options(request_timeout=60).search(
        index=name,
        routing=str(LARGE_CHAT_ID),
        query={"bool": {"filter": filters}},
        sort=["chat", "number"],
        size=PAGE,
        track_total_hits=False,
    )
    return [hit["sort"][-1] for hit in answer["hits"]["hits"]]
