"""Metrics that each process of the server counts: requests, batches, pools.

The processes count in files of one folder, so that any of them can expose the metrics of all. The counts of a
process that has ended stay there until the server stops, so a counter never falls. The library's `observe`
takes about 4 µs, a fifth of a request on the fast path; requests and calls of Redis are therefore counted in
memory and written once a second. A killed process loses the counts of its last second. A killed server leaves
its folder behind, which the next server of this machine removes.
"""

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from backend.embedded.locks import try_lock

Pools = Mapping[str, tuple[int, int]]
"""For each pool: how much of it is in use, and its size."""

SAMPLE_INTERVAL_SECONDS = 1.0
# The library reads it when it is imported.
_MULTIPROC_DIR_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_FOLDER_PREFIX: Final = "instachat-metrics-"
_LOCK_NAME: Final = "used"
_GAUGE_FILE_NAME: Final = re.compile(r"gauge_live\w+_(\d+)\.db\Z")

_own_registry = CollectorRegistry()
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_request_seconds = Histogram(
    "instachat_http_request_seconds",
    "From a request's arrival to the end of its response; status 0 if no response was sent",
    ["method", "route", "status"],
    buckets=_BUCKETS,
    registry=_own_registry,
)
_accept_batch_requests = Histogram(
    "instachat_accept_batch_requests",
    "Requests accepted by one call of Redis",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=_own_registry,
)
_accept_call_seconds = Histogram(
    "instachat_accept_call_seconds",
    "Duration of one accepting call of Redis, including its fsync",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    registry=_own_registry,
)
_pool_in_use = Gauge(
    "instachat_pool_in_use",
    "Connections, calls or requests in use, over all processes of the server",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own_registry,
)
_pool_limit = Gauge(
    "instachat_pool_limit",
    "Size of the pool, over all processes of the server",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_own_registry,
)


@contextmanager
def share_metrics() -> Iterator[None]:
    """Processes that are started within this context count together.

    Removes the folders of killed servers first.
    """
    _remove_abandoned_folders()
    with (
        tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder,
        _mark_used(Path(folder)),
    ):
        os.environ[_MULTIPROC_DIR_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_MULTIPROC_DIR_VARIABLE]


@contextmanager
def _mark_used(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: the kernel releases it when this process ends, however it ends."""
    unlocked = folder / "new"
    lock = try_lock(unlocked, fcntl.LOCK_EX)
    assert lock is not None  # no other process looks for a lock of this name
    try:
        unlocked.rename(folder / _LOCK_NAME)
        yield
    finally:
        os.close(lock)


def _remove_abandoned_folders() -> None:
    """Remove the folders whose servers have ended without removing them."""
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*/{_LOCK_NAME}"):
        with suppress(OSError):  # it is another user's, or another server has just removed it
            lock = try_lock(path, fcntl.LOCK_EX)
            if lock is not None:
                try:
                    shutil.rmtree(path.parent)
                finally:
                    os.close(lock)


class _Unflushed:
    """What was observed of one series and is not written yet: the count of each bucket, and the sum."""

    __slots__ = ("bounds", "counts", "series", "sum")

    def __init__(self, series: Histogram) -> None:
        self.series = series
        # The bound of the last bucket is infinite.
        self.bounds: list[float] = series._upper_bounds
        self.clear()

    def clear(self) -> None:
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def flush(self) -> None:
        """What the library's `observe` does, for many values at once."""
        if any(self.counts):
            for bucket, count in zip(self.series._buckets, self.counts, strict=True):
                if count:
                    bucket.inc(count)
            self.series._sum.inc(self.sum)
            self.clear()


_requests: dict[tuple[str, str, int], _Unflushed] = {}  # methods, routes and statuses are few
_accept_calls = _Unflushed(_accept_call_seconds)
_accept_batches = _Unflushed(_accept_batch_requests)


def observe(_: bytes, method: str, route: str, status: int, seconds: float) -> None:
    """Count a response; an `Observer`. Call it on the event loop, as `flush`."""
    kind = method, route, status
    series = _requests.get(kind)
    if series is None:
        series = _requests[kind] = _Unflushed(_request_seconds.labels(*kind))
    series.observe(seconds)


def observe_accept(requests: int, seconds: float) -> None:
    """Count a call of Redis that accepted so many requests. Call it on the event loop, as `flush`."""
    _accept_calls.observe(seconds)
    _accept_batches.observe(requests)


def flush() -> None:
    """Write what was observed so far, so that `collect` includes it."""
    for series in (*_requests.values(), _accept_calls, _accept_batches):
        series.flush()


async def run_sampler(pools: Callable[[], Pools]) -> None:
    """Once a second, until cancelled: record the state of this process's pools, and flush."""
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
    """A new registry with the metrics of all processes of the server; the caller may add to it."""
    registry = CollectorRegistry()
    if _MULTIPROC_DIR_VARIABLE not in os.environ:  # the only process
        registry.register(_own_registry)
        return registry
    for file in Path(os.environ[_MULTIPROC_DIR_VARIABLE]).iterdir():
        if (gauges := _GAUGE_FILE_NAME.match(file.name)) and not psutil.pid_exists(int(gauges[1])):
            mark_process_dead(int(gauges[1]))
    MultiProcessCollector(registry)
    return registry
