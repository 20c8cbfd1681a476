"""Simulates a million applications over the shards of a Redis Cluster; `make scale` runs it, in seconds.

An application is in one shard, which its token decides, and a shard is on one node, which its hash tag
decides: both by the program's own functions. The n-th busiest application has 1/n^S of the load of the
busiest one (Zipf's law). Each seed draws other tokens. Only the sums of each shard are kept in memory.

    .venv/bin/python -m tools.simulate_shards [--report docs/scale.md]

The bytes of a counter and of an entry are measured: private engines are started, and accept real requests.
"""

import argparse
import base64
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from backend.bootstrap import Backend, open_backend
from backend.domain.model import Parent, shard_of
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from backend.storage.redis.keys import FIRST_SPREAD_SHARD, shard_slot
from tests.support.engines import (
    PostgresServer,
    RedisServer,
    valkey_binary,
    wheel_postgres,
)
from tools.markdown_section import replace_section

SECTION: Final = "simulation"
APPLICATIONS: Final = 1_000_000
CHATS: Final = (
    100_000_000  # of all applications; an application has as many of them as it has of the load
)
SHARDS: Final = range(FIRST_SPREAD_SHARD, FIRST_SPREAD_SHARD + 64)
NODES: Final = (4, 8, 16)
EXPONENTS: Final = (0.8, 1.0)
SEEDS: Final = range(1, 6)
MEASURED: Final = 1_000  # chats, and messages
TEXT: Final = "A message of sixty characters, which is a usual length, yes."


@dataclass
class Distribution:
    """How applications and their load, which is 1.0 altogether, are spread over the shards."""

    applications: list[int]
    load: list[float]


def distribute(applications: int, exponent: float, seed: int) -> Distribution:
    """Spread so many applications over SHARDS."""
    found = Distribution([0] * len(SHARDS), [0.0] * len(SHARDS))
    for rank, token in enumerate(_tokens(applications, seed), 1):
        index = shard_of(token, SHARDS) - SHARDS.start
        found.applications[index] += 1
        found.load[index] += rank**-exponent
    total = sum(found.load)
    found.load = [load / total for load in found.load]
    return found


def _tokens(count: int, seed: int) -> Iterator[str]:
    """Random tokens of the usual form."""
    dice = random.Random(seed)
    for _ in range(count):
        yield base64.urlsafe_b64encode(dice.randbytes(24)).decode()


def by_slots(values: Sequence[float], nodes: int) -> list[float]:
    """The sum of each node, if nodes have equal ranges of slots."""
    sums = [0.0] * nodes
    for shard, value in zip(SHARDS, values, strict=True):
        sums[shard_slot(shard) * nodes // REDIS_CLUSTER_HASH_SLOTS] += value
    return sums


def by_load(values: Sequence[float], nodes: int) -> list[float]:
    """The sum of each node, if an operator moves shards by their load.

    The busiest shard is placed first, each on the node that has the least.
    """
    sums = [0.0] * nodes
    for value in sorted(values, reverse=True):
        sums[sums.index(min(sums))] += value
    return sums


class Sizes(NamedTuple):
    """Bytes of Redis's memory."""

    application: float
    chat: float
    message: float
    """Of a message of TEXT in the log, sent alone."""


def measure_sizes() -> Sizes:
    """Have a private Valkey accept, and ask it by MEMORY USAGE."""
    with ExitStack() as stack:
        postgres = PostgresServer(wheel_postgres())
        stack.callback(postgres.remove)
        postgres.start()
        server = RedisServer(valkey_binary())
        stack.callback(server.remove)
        server.start()
        database = Database(postgres.url())
        upgrade(database)
        database.close()
        settings = Settings(database_url=postgres.url(), redis_url=server.url)
        return _measure(stack.enter_context(open_backend(settings)))


def _measure(backend: Backend) -> Sizes:
    token = backend.catalog.applications.create("measured").token
    shard = backend.counters.shard(token)
    log = backend.log.key(shard, "log")
    backend.acceptor.accept(AcceptRequest.chats(token, MEASURED))
    chats = range(1, MEASURED + 1)
    before = _usage(backend, log)
    for chat in chats:
        backend.acceptor.accept(AcceptRequest.messages(token, chat, [TEXT]))
    of_chats = [_usage(backend, backend.log.counter_key(shard, Parent(token, n))) for n in chats]
    return Sizes(
        application=_usage(backend, backend.log.counter_key(shard, Parent(token))),
        chat=sum(of_chats) / len(of_chats),
        message=(_usage(backend, log) - before) / MEASURED,
    )


def _usage(backend: Backend, key: str) -> int:
    # SAMPLES 0: every entry of a stream is counted.
    return int(backend.log.redis.memory_usage(key, samples=0) or 0)


def report(applications: int, sizes: Sizes) -> str:
    """The tables, as Markdown."""
    lines = [
        (
            "| skew S | nodes | busiest application | busiest shard | busiest node, equal ranges of slots"
            " | the same, shards moved by load | applications of a node that is down | memory of the busiest"
            " node |"
        ),
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for exponent in EXPONENTS:
        found = [distribute(applications, exponent, seed) for seed in SEEDS]
        first = 1 / sum(rank**-exponent for rank in range(1, applications + 1))
        for nodes in NODES:
            lines.append(f"| {exponent} | {nodes} | {first:.1%} | {_row(found, nodes, sizes)} |")
    return "\n".join([*lines, "", _conditions(applications, sizes)])


def _row(found: Sequence[Distribution], nodes: int, sizes: Sizes) -> str:
    shards = [max(one.load) for one in found]
    equal = [max(by_slots(one.load, nodes)) for one in found]
    moved = [max(by_load(one.load, nodes)) for one in found]
    refused = [share for one in found for share in _shares(by_slots(one.applications, nodes))]
    counters = [
        max(by_slots([load * CHATS * sizes.chat for load in one.load], nodes)) for one in found
    ]
    return " | ".join(
        [
            _typical(shards),
            _times_even(equal, nodes),
            _times_even(moved, nodes),
            f"{min(refused):.1%} to {max(refused):.1%}",
            f"{median(counters) / 2**30:.1f} GiB",
        ]
    )


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total for value in values]


def _typical(shares: Sequence[float]) -> str:
    return f"{median(shares):.1%} (up to {max(shares):.1%})"


def _times_even(shares: Sequence[float], nodes: int) -> str:
    return (
        f"{median(shares):.1%}, × {median(shares) * nodes:.2f} (up to × {max(shares) * nodes:.2f})"
    )


def _conditions(applications: int, sizes: Sizes) -> str:
    return (
        f"{applications:,} applications, {len(SHARDS)} shards, {len(SEEDS)} draws of the tokens: the"
        " median, and the worst draw in brackets. Shares are of the whole load; × 1.00 is an even share of"
        f" the nodes. Memory is that of the counters of {CHATS:,} chats, which are spread as the load is; the"
        " log comes in addition. A real Valkey says by `MEMORY USAGE`:"
        f" {sizes.chat:.0f} bytes for the counter of a chat, {sizes.application:.0f} for that of an"
        f" application, {sizes.message:.0f} for a message of {len(TEXT)} characters in the log."
    )


def main() -> None:
    """Print the report, and write it into a page if one is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path, help="the page that has the section")
    parser.add_argument("--applications", type=int, default=APPLICATIONS)
    options = parser.parse_args()
    text = report(options.applications, measure_sizes())
    print(text)
    if options.report:
        replace_section(options.report, SECTION, text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
