"""Faults under load: processes of a private installation are killed, kept away, or made to hang.

The installation restarts what ends. So a run shows how long that takes, and what clients see meanwhile.
"""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import psutil

from loadtest.run.durations import parse_seconds

KEEP_AWAY_SECONDS = 0.02  # between two looks for a process that was started again
_TIME = r"[0-9]+(?:\.[0-9]+)?(?:ms|s|m)"


class Action(StrEnum):
    """What happens to the processes: they get SIGKILL, or that again and again, or SIGSTOP and SIGCONT."""

    KILL = "kill"
    STOP = "stop"
    HANG = "hang"


class Target(StrEnum):
    """Whose processes."""

    SERVER = "server"
    WORKER = "worker"
    POSTGRES = "postgres"
    VALKEY = "valkey"
    ELASTICSEARCH = "elasticsearch"


FindProcesses = Callable[[Target], list[psutil.Process]]


@dataclass(frozen=True)
class Fault:
    """A fault at a second of the run. It lasts `seconds`; `kill` is over at once."""

    action: Action
    target: Target
    at_s: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """From `kill:TARGET@TIME`, `stop:TARGET@TIME+TIME` or `hang:TARGET@TIME+TIME`.

        Raises ValueError for anything else.
        """
        found = re.fullmatch(rf"([a-z]+):([a-z]+)@({_TIME})(?:\+({_TIME}))?", text)
        if not found or found[1] not in list(Action) or (found[1] == Action.KILL) != (not found[4]):
            raise ValueError(
                f"{text[:60]!r} is not a fault, such as kill:worker@20s, stop:postgres@30s+5s or"
                " hang:valkey@40s+2s"
            )
        if found[2] not in list(Target):
            raise ValueError(
                f"{found[2][:40]!r} is no target: the parts of a private installation are"
                f" {', '.join(Target)}"
            )
        if found[2] == Target.ELASTICSEARCH and found[1] != Action.HANG:
            raise ValueError("elasticsearch can only hang: nothing would start it again")
        lasts = parse_seconds(found[4]) if found[4] else 0.0
        return cls(Action(found[1]), Target(found[2]), parse_seconds(found[3]), lasts)

    def __str__(self) -> str:
        lasts = f"+{self.seconds:g}s" if self.seconds else ""
        return f"{self.action}:{self.target}@{self.at_s:g}s{lasts}"


@dataclass(frozen=True)
class InjectedFault:
    """A fault that has happened, and when it began and was over, in seconds of the run."""

    fault: Fault
    from_s: float
    to_s: float


class FaultInjector:
    """Makes faults happen in a thread, one after another, from the begin of a run until `stop`."""

    def __init__(
        self,
        faults: Iterable[Fault],
        find: FindProcesses,
        begin: float,
        on_fault: Callable[[str], object],
    ) -> None:
        self._faults = sorted(faults, key=lambda fault: fault.at_s)
        self._find, self._begin, self._on_fault = find, begin, on_fault
        self._stop = threading.Event()
        self.injected: list[InjectedFault] = []
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Inject no more; a fault under way ends now."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for fault in self._faults:
            if self._stop.wait(max(self._begin + fault.at_s - time.monotonic(), 0)):
                return
            began = time.monotonic() - self._begin
            self._on_fault(f"{began:4.0f} s  {fault}")
            _INJECT[fault.action](self, fault)
            ended = time.monotonic() - self._begin
            self.injected.append(InjectedFault(fault, began, ended))

    def _kill(self, fault: Fault) -> None:
        for process in self._find(fault.target):
            _send(process, signal.SIGKILL)

    def _keep_away(self, fault: Fault) -> None:
        until = time.monotonic() + fault.seconds
        while time.monotonic() < until:
            self._kill(fault)
            if self._stop.wait(KEEP_AWAY_SECONDS):
                return

    def _hang(self, fault: Fault) -> None:
        stopped = self._find(fault.target)
        for process in stopped:
            _send(process, signal.SIGSTOP)
        self._stop.wait(fault.seconds)
        for process in stopped:
            _send(process, signal.SIGCONT)


_INJECT: dict[Action, Callable[[FaultInjector, Fault], None]] = {
    Action.KILL: FaultInjector._kill,
    Action.STOP: FaultInjector._keep_away,
    Action.HANG: FaultInjector._hang,
}


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
