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

SAMPLE_INTERVAL_SECONDS = 1.0
_MULTIPROC_DIR_VARIABLE: Final = (
    "PROMETHEUS_MULTIPROC_DIR"  # the library reads it when it is imported
)
_GAUGE_FILE_NAME: Final = re.compile(r"gauge_live\w+_(\d+)\.db\Z")

_own_registry = CollectorRegistry()
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_request_seconds = Histogram(
    "instachat_http_request_seconds",
    "From a request's arrival to the end of its answer; status 0 is one that was cut off",
    ["method", "route", "status"],
    buckets=_BUCKETS,
    registry=_own_registry,
)
_accept_batch_requests = Histogram(
    "instachat_accept_batch_requests",
    "Requests accepted in one call of Redis",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=_own_registry,
)
_accept_call_seconds = Histogram(
    "instachat_accept_call_seconds",
    "One call of Redis that accepts, with its fsync",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    registry=_own_registry,
)
_pool_in_use = Gauge(
    "instachat_pool_in_use",
    "Connections, calls or requests in a pool, of all the server's processes",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own_registry,
)
_pool_limit = Gauge(
    "instachat_pool_limit",
    "The most that fits into that pool",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own_registry,
)


@contextmanager
def share_metrics() -> Iterator[None]:
    """While inside, processes that are started count together."""
    with tempfile.TemporaryDirectory(prefix="instachat-metrics-") as folder:
        os.environ[_MULTIPROC_DIR_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_MULTIPROC_DIR_VARIABLE]


class _RequestCounts:
    """Requests of one kind that are not written down yet: how many up to each bound, and their seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0


_unflushed: dict[tuple[str, str, int], _RequestCounts] = {}  # methods, routes and statuses are few


def observe(_: bytes, method: str, route: str, status: int, seconds: float) -> None:
    """A request was answered; see `edge.Observe`. Of the event loop, as `flush` is."""
    counted = _unflushed.get((method, route, status))
    if counted is None:
        counted = _unflushed[method, route, status] = _RequestCounts()
    counted.counts[bisect_left(_BUCKETS, seconds)] += 1
    counted.seconds += seconds


def flush() -> None:
    """Have the requests observed so far be among what `collect` tells."""
    for kind, counted in _unflushed.items():
        if any(counted.counts):
            series = _request_seconds.labels(*kind)
            # As the library's `observe` does, which takes one at a time.
            for bucket, count in zip(series._buckets, counted.counts, strict=True):
                if count:
                    bucket.inc(count)
            series._sum.inc(counted.seconds)
            _unflushed[kind] = _RequestCounts()


@contextmanager
def measure_accept(requests: int) -> Iterator[None]:
    """Around one call of Redis that accepts so many requests."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _accept_call_seconds.observe(time.perf_counter() - began)
        _accept_batch_requests.observe(requests)


async def run_sampler(pools: Callable[[], Pools]) -> None:
    """Look at this process's pools now and then, for ever, and write down what it has answered."""
    try:
        while True:
            for pool, (in_use, limit) in pools().items():
                _pool_in_use.labels(pool).set(in_use)
                _pool_limit.labels(pool).set(limit)
            flush()
            await asyncio.sleep(SAMPLE_INTERVAL_SECONDS)
    finally:
        flush()


def collect() -> CollectorRegistry:
    """What all processes of the server have counted; a new registry, to be added to."""
    found = CollectorRegistry()
    if _MULTIPROC_DIR_VARIABLE not in os.environ:  # this process is alone
        found.register(_own_registry)
        return found
    for file in Path(os.environ[_MULTIPROC_DIR_VARIABLE]).iterdir():
        if (gauges := _GAUGE_FILE_NAME.match(file.name)) and not psutil.pid_exists(int(gauges[1])):
            mark_process_dead(int(gauges[1]))
    MultiProcessCollector(found)
    return found
