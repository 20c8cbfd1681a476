"""Processor and memory use of the generator and of the servers, once a second."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import NamedTuple

import psutil

from loadtest.report.result import Cpu, Memory, Window

INTERVAL_SECONDS = 1.0


class Reading(NamedTuple):
    """One second: processors used, and memory in MB. None: the servers are not visible to this process."""

    at_s: float
    generator: float
    busiest: float
    servers: float | None
    machine: float
    generator_mb: float
    servers_mb: float | None


class ResourceMonitor:
    """Takes readings in a thread until it is stopped.

    `generator` is the process that makes the load; `servers` returns the server processes. Descendants are
    included.
    """

    def __init__(
        self, generator: int, servers: Callable[[], Iterable[psutil.Process]] | None, begin: float
    ) -> None:
        self._generator = _ProcessGroup(lambda: _existing([generator]))
        self._servers = _ProcessGroup(servers) if servers else None
        self._begin = begin
        self._stop = threading.Event()
        self.readings: list[Reading] = []
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more readings."""
        self._stop.set()
        self._thread.join()

    def cpu(self, window: Window) -> Cpu:
        """The averages over a window."""
        counted = self._within(window)
        servers = [r.servers for r in counted if r.servers is not None]
        return Cpu(
            generator=_mean([r.generator for r in counted]),
            servers=_mean(servers) if servers else None,
            busiest=_mean([r.busiest for r in counted]),
            machine=_mean([r.machine for r in counted]),
            processors=os.cpu_count() or 1,
        )

    def memory(self, window: Window) -> Memory:
        """The highest use within a window."""
        counted = self._within(window)
        servers = [r.servers_mb for r in counted if r.servers_mb is not None]
        return Memory(
            generator=max((r.generator_mb for r in counted), default=0.0),
            servers=max(servers) if servers else None,
        )

    def _within(self, window: Window) -> list[Reading]:
        # A window too short to contain a reading is described by all of them.
        inside = [r for r in self.readings if window.from_s <= r.at_s <= window.to_s]
        return inside or self.readings

    def _run(self) -> None:
        self._stop.wait(max(self._begin - time.monotonic(), 0))
        self._read()  # sets the starting point: use before the run does not count
        while not self._stop.wait(
            INTERVAL_SECONDS - (time.monotonic() - self._begin) % INTERVAL_SECONDS
        ):
            self.readings.append(self._read())

    def _read(self) -> Reading:
        """The use since the last reading, dated to the middle of that interval."""
        used, mb = self._generator.read()
        servers, servers_mb = self._servers.read() if self._servers else ([], None)
        return Reading(
            at_s=time.monotonic() - self._begin - INTERVAL_SECONDS / 2,
            generator=round(sum(used), 3),
            busiest=round(max(used, default=0.0), 3),
            servers=round(sum(servers), 3) if self._servers else None,
            machine=round(psutil.cpu_percent() / 100 * (os.cpu_count() or 1), 3),
            generator_mb=round(mb, 1),
            servers_mb=None if servers_mb is None else round(servers_mb, 1),
        )


class _ProcessGroup:
    """Processes that are measured together with their descendants."""

    def __init__(self, roots: Callable[[], Iterable[psutil.Process]]) -> None:
        self._roots = roots
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self._read_at = time.monotonic()

    def read(self) -> tuple[list[float], float]:
        """The processors that each process has used since the last reading, and the memory of all in MB."""
        now, spent, memory = time.monotonic(), dict[psutil.Process, float](), 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
                spent[process] = times.user + times.system
                memory += _memory(process)
            except psutil.Error:
                continue
        # A process that started since then has used all of its processor time in this interval.
        used = [(spent[p] - self._cpu_seconds.get(p, 0.0)) / (now - self._read_at) for p in spent]
        self._cpu_seconds, self._read_at = spent, now
        return used, memory / 1e6

    def _processes(self) -> set[psutil.Process]:
        found: set[psutil.Process] = set()
        for root in self._roots():
            try:
                found |= {root, *root.children(recursive=True)}
            except psutil.Error:
                continue
        return found


def _existing(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            found.append(psutil.Process(pid))
        except psutil.Error:
            continue
    return found


def _memory(process: psutil.Process) -> float:
    """Bytes; where the system reports it, a page shared by n processes counts 1/n for each."""
    try:
        return float(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return float(process.memory_info().rss)


def _mean(values: list[float]) -> float:
    return round(fmean(values), 3) if values else 0.0
