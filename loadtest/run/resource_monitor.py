"""What a run costs: processors and memory of the generator and of the servers, once a second."""

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
    """One second: processors used, and memory in MB. None: no servers of ours to look at."""

    at_s: float
    generator: float
    busiest: float
    servers: float | None
    machine: float
    generator_mb: float
    servers_mb: float | None


class ResourceMonitor:
    """Reads from a thread of its own until it is stopped.

    `generator` is the process that makes the load, `servers` gives the roots of those that bear it;
    their descendants count with them.
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
        """Read no more."""
        self._stop.set()
        self._thread.join()

    def cpu(self, window: Window) -> Cpu:
        """The averages within a window."""
        counted = self._within(window)
        servers = [r.servers for r in counted if r.servers is not None]
        return Cpu(
            _mean([r.generator for r in counted]),
            _mean(servers) if servers else None,
            _mean([r.busiest for r in counted]),
            _mean([r.machine for r in counted]),
            os.cpu_count() or 1,
        )

    def memory(self, window: Window) -> Memory:
        """The highest within a window."""
        counted = self._within(window)
        servers = [r.servers_mb for r in counted if r.servers_mb is not None]
        return Memory(
            max((r.generator_mb for r in counted), default=0.0), max(servers) if servers else None
        )

    def _within(self, window: Window) -> list[Reading]:
        # A run that was too short for a reading of its own is described by those around it.
        inside = [r for r in self.readings if window.from_s <= r.at_s <= window.to_s]
        return inside or self.readings

    def _run(self) -> None:
        self._stop.wait(max(self._begin - time.monotonic(), 0))
        self._read()  # what was used until now is not of the run
        while not self._stop.wait(
            INTERVAL_SECONDS - (time.monotonic() - self._begin) % INTERVAL_SECONDS
        ):
            self.readings.append(self._read())

    def _read(self) -> Reading:
        """What was used since the last time, as of the middle of these seconds."""
        used, mb = self._generator.read()
        servers, servers_mb = self._servers.read() if self._servers else ([], None)
        return Reading(
            time.monotonic() - self._begin - INTERVAL_SECONDS / 2,
            round(sum(used), 3),
            round(max(used, default=0.0), 3),
            round(sum(servers), 3) if self._servers else None,
            round(psutil.cpu_percent() / 100 * (os.cpu_count() or 1), 3),
            round(mb, 1),
            None if servers_mb is None else round(servers_mb, 1),
        )


class _ProcessGroup:
    """Processes that are read together, with all of their descendants."""

    def __init__(self, roots: Callable[[], Iterable[psutil.Process]]) -> None:
        self._roots = roots
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self._read_at = time.monotonic()

    def read(self) -> tuple[list[float], float]:
        """Processors that each has used since the last reading, and the memory of all in MB."""
        now, spent, memory = time.monotonic(), dict[psutil.Process, float](), 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
                spent[process] = times.user + times.system
                memory += _memory(process)
            except psutil.Error:
                continue
        # A process that is new since then has used all it has used in this time.
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
    """Bytes; where the system can tell, a page that several share counts in parts."""
    try:
        return float(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return float(process.memory_info().rss)


def _mean(values: list[float]) -> float:
    return round(fmean(values), 3) if values else 0.0
