"""What a process of the server counts of its own work: requests, batches, pools.

It counts in a file that all of them share, so that whichever is asked answers for all. What a process that
has ended wrote there stays until the server ends: a count never falls. Requests are counted beside it and
written there once a second, as the library takes some 4 µs for each, a fifth of all that the hot route takes:
one that is killed takes those of its last second along.
"""

import asyncio
import os
import re
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

Pools = Mapping[str, tuple[int, int]]
"""Of each pool what is in use, and the most that can be."""

SAMPLE_SECONDS = 1.0
_SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"  # the library reads it when it is imported
_GAUGE_FILE: Final = re.compile(r"gauge_live\w+_(\d+)\.db\Z")

_own = CollectorRegistry()
_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_requests = Histogram(
    "instachat_http_request_seconds",
    "From a request's arrival to the end of its answer; status 0 is one that was cut off",
    ["method", "route", "status"],
    buckets=_BOUNDS,
    registry=_own,
)
_batches = Histogram(
    "instachat_accept_batch_requests",
    "Requests accepted in one call of Redis",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=_own,
)
_calls = Histogram(
    "instachat_accept_call_seconds",
    "One call of Redis that accepts, with its fsync",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    registry=_own,
)
_in_use = Gauge(
    "instachat_pool_in_use",
    "Connections, calls or requests in a pool, of all the server's processes",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own,
)
_limit = Gauge(
    "instachat_pool_limit",
    "The most that fits into that pool",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own,
)


@contextmanager
def shared() -> Iterator[None]:
    """While inside, processes that are started count together."""
    with tempfile.TemporaryDirectory(prefix="instachat-metrics-") as folder:
        os.environ[_SHARED] = folder
        try:
            yield
        finally:
            del os.environ[_SHARED]


class _Tally:
    """Requests of one kind that are not written down yet: how many up to each bound, and their seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.seconds = 0.0


_tallies: dict[tuple[str, str, int], _Tally] = {}  # methods, routes and statuses are few


def observe(_: bytes, method: str, route: str, status: int, seconds: float) -> None:
    """A request was answered; see `edge.Observe`. Of the event loop, as `write_down` is."""
    tally = _tallies.get((method, route, status))
    if tally is None:
        tally = _tallies[method, route, status] = _Tally()
    tally.counts[bisect_left(_BOUNDS, seconds)] += 1
    tally.seconds += seconds


def write_down() -> None:
    """Have the requests observed so far be among what `registry` tells."""
    for kind, tally in _tallies.items():
        if any(tally.counts):
            series = _requests.labels(*kind)
            # As the library's `observe` does, which takes one at a time.
            for bucket, count in zip(series._buckets, tally.counts, strict=True):
                if count:
                    bucket.inc(count)
            series._sum.inc(tally.seconds)
            _tallies[kind] = _Tally()


@contextmanager
def accepting(requests: int) -> Iterator[None]:
    """Around one call of Redis that accepts so many requests."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _calls.observe(time.perf_counter() - began)
        _batches.observe(requests)


async def sample(pools: Callable[[], Pools]) -> None:
    """Look at this process's pools now and then, for ever, and write down what it has answered."""
    try:
        while True:
            for pool, (in_use, limit) in pools().items():
                _in_use.labels(pool).set(in_use)
                _limit.labels(pool).set(limit)
            write_down()
            await asyncio.sleep(SAMPLE_SECONDS)
    finally:
        write_down()


def registry() -> CollectorRegistry:
    """What all processes of the server have counted; a new registry, to be added to."""
    found = CollectorRegistry()
    if _SHARED not in os.environ:  # this process is alone
        found.register(_own)
        return found
    for file in Path(os.environ[_SHARED]).iterdir():
        if (gauges := _GAUGE_FILE.match(file.name)) and not psutil.pid_exists(int(gauges[1])):
            mark_process_dead(int(gauges[1]))
    MultiProcessCollector(found)
    return found
