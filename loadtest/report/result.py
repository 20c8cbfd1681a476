"""What a run found: the JSON of `instachat bench run -o json`, which reports and comparisons read.

`Result.to_json` and `Result.from_json` are inverse. A reader refuses a `version` that it does not know; a
field that is added with a default leaves the version as it is. Times are milliseconds where the name ends
with `_ms` and seconds since the run's start where it ends with `_s`; rates are per second.

What is in `requests`, `total`, `lag_ms`, `cpu` and `memory_mb` is of the measured window only: ramp-up,
ramp-down and warm-up are left out. `timeline` and `audit` are of the whole run.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

VERSION = 1


class Model(StrEnum):
    """How requests arise: `closed`, users who wait for their answers; `open`, a rate held whatever comes."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(frozen=True)
class Window:
    """The part of the run that is measured."""

    from_s: float
    to_s: float


@dataclass(frozen=True)
class RouteStatistics:
    """The requests of one route (or of all). A latency counts from the start that was *intended*.

    `failures` are all that were not answered as they should be; `unknown`, among them, those whose answer
    was lost or a 5xx: it may have been done or not. `errors` counts them by status or exception.
    """

    name: str
    count: int
    rate: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    failures: int
    unknown: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def error_share(self) -> float:
        """Failures by requests, 0 to 1."""
        return self.failures / self.count if self.count else 0.0


@dataclass(frozen=True)
class Spread:
    """Percentiles of samples; `missed` never came within the sampler's patience."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    missed: int = 0


@dataclass(frozen=True)
class Lags:
    """From a message's answer to when a read gives it, and to when a search finds it."""

    stored: Spread
    searchable: Spread


@dataclass(frozen=True)
class Cpu:
    """Processors used, on average: 1.0 is one busy all the time. None: not ours to see (a host was given)."""

    generator: float
    servers: float | None
    busiest: float  # of the generator's processes: one of them can use one processor at most
    machine: float  # all of the machine, by whomever
    processors: int


@dataclass(frozen=True)
class Memory:
    """Highest memory of the processes together, in MB (10⁶ bytes); shared pages count once."""

    generator: float
    servers: float | None


@dataclass(frozen=True)
class Moment:
    """One second of the run. What was not sampled in it is None.

    Latencies and failures are of the requests that were due in it, `rate` is of what was answered in it.
    """

    at_s: float
    level: float  # users, or arrivals a second, that were to be
    rate: float
    failures: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    stored_ms: float | None = None
    searchable_ms: float | None = None
    cpu_generator: float | None = None
    cpu_servers: float | None = None
    memory_servers_mb: float | None = None


@dataclass(frozen=True)
class Level:
    """The requests of one level of `stress` or `spike`, all routes together."""

    level: float  # users, or arrivals a second
    from_s: float
    to_s: float
    requests: RouteStatistics


@dataclass(frozen=True)
class ChatAudit:
    """The numbers of chats that were created while the load ran."""

    answered: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0


@dataclass(frozen=True)
class Audit:
    """Every number that was answered against what the server has: after the run, over HTTP.

    `answered` counts messages that must be there (those deleted since are in `deleted`); `stored` and
    `searchable` how many of them are, with the right text. `lost`: answered, and not there. `doubled`: one
    number answered twice, or one request stored twice. `gaps`: numbers below a chat's highest that nobody
    was answered and nothing is stored under. `unasked`: stored, and never sent. `undead`: deleted, and still
    there. `unsearchable`: stored, and not found. `unknown`: sent, but the answer was lost or a 5xx;
    `unknown_stored`: those of them that are there, which is no fault.
    """

    answered: int = 0
    stored: int = 0
    searchable: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    wrong_text: int = 0
    unasked: int = 0
    undead: int = 0
    unsearchable: int = 0
    deleted: int = 0
    unknown: int = 0
    unknown_stored: int = 0
    chats: ChatAudit = field(default_factory=ChatAudit)
    examples: list[str] = field(default_factory=list)  # of the faults, the first few, in words
    seconds: float = 0.0

    @property
    def faults(self) -> dict[str, int]:
        """What must not be, by kind; empty after a clean run."""
        kinds = (
            "lost",
            "doubled",
            "gaps",
            "wrong_text",
            "unasked",
            "undead",
            "unsearchable",
        )
        found = {kind: getattr(self, kind) for kind in kinds}
        found |= {
            f"chats_{kind}": getattr(self.chats, kind) for kind in ("lost", "doubled", "gaps")
        }
        return {kind: count for kind, count in found.items() if count}


@dataclass(frozen=True)
class Threshold:
    """One bar, and whether it was kept. `found` is None where nothing was measured: that is not kept."""

    name: str  # p99 or errors
    limit: float  # milliseconds, or a share of 0 to 1
    found: float | None
    kept: bool


@dataclass(frozen=True)
class Step:
    """One level of a `breakpoint` run: what was asked for, what was carried, and whether it held."""

    level: float
    rate: float
    p99_ms: float | None
    error_share: float
    held: bool
    why: str = ""  # not held: which bar was missed


@dataclass(frozen=True)
class Breakpoint:
    """The highest level that held, None if none did; and each that was tried, in order."""

    level: float | None
    rate: float | None
    steps: list[Step] = field(default_factory=list)
    max_p99_ms: float = 0.0  # what a step had to keep,
    max_errors: float = 0.0


@dataclass(frozen=True)
class Result:
    """One run."""

    scenario: str
    profile: str
    model: Model
    seed: int
    users: int  # closed: at the highest; open: at most so many requests under way
    rate: float | None  # open: arrivals a second at the highest
    processes: int
    started_at: str  # RFC 3339, UTC
    duration_s: float
    window: Window
    host: str
    private: bool  # the installation was started for this run, and is gone
    interrupted: bool
    requests: list[RouteStatistics]
    total: RouteStatistics
    lag_ms: Lags
    cpu: Cpu
    memory_mb: Memory
    audit: Audit
    thresholds: list[Threshold] = field(default_factory=list)
    breakpoint: Breakpoint | None = None
    levels: list[Level] = field(default_factory=list)  # where a profile holds several; in order
    timeline: list[Moment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # machine, versions, commit, settings
    planned_s: float | None = None  # how long it was to take; `duration_s` is how long it took
    chats: int | None = None  # that there were before the load, or None: an older result
    version: int = VERSION

    @property
    def problems(self) -> list[str]:
        """Why this run did not pass, in words; empty if it did."""
        faults = [
            f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.audit.faults.items()
        ]
        missed = [_missed(bar) for bar in self.thresholds if not bar.kept]
        nothing = self.breakpoint is not None and self.breakpoint.level is None
        return [*faults, *missed, *(["not even the first level held"] if nothing else [])]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """The result that `to_json` has written; ValueError for one that this program can't read."""
        if data.get("version") != VERSION:
            raise ValueError(f"not the result of a run, or not of version {VERSION}")
        try:
            return cls(
                **{
                    **data,
                    "model": Model(data["model"]),
                    "window": Window(**data["window"]),
                    "requests": [RouteStatistics(**row) for row in data["requests"]],
                    "total": RouteStatistics(**data["total"]),
                    "lag_ms": Lags(**{k: Spread(**v) for k, v in data["lag_ms"].items()}),
                    "cpu": Cpu(**data["cpu"]),
                    "memory_mb": Memory(**data["memory_mb"]),
                    "audit": Audit(
                        **{**data["audit"], "chats": ChatAudit(**data["audit"]["chats"])}
                    ),
                    "thresholds": [Threshold(**bar) for bar in data["thresholds"]],
                    "breakpoint": _breakpoint(data["breakpoint"]),
                    "levels": [
                        Level(**{**level, "requests": RouteStatistics(**level["requests"])})
                        for level in data.get("levels", [])
                    ],
                    "timeline": [Moment(**moment) for moment in data["timeline"]],
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the result of a run: {error}") from None


def dumps(result: Result) -> str:
    """The result as one line of JSON."""
    return json.dumps(result.to_json(), ensure_ascii=False)


def loads(text: str) -> Result:
    """The result that `dumps` has written; ValueError if it is none."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not the result of a run")
    return Result.from_json(data)


def _missed(bar: Threshold) -> str:
    if bar.name == "errors":
        found = "nothing was measured" if bar.found is None else f"{bar.found:.2%} failed"
        return f"{found}, at most {bar.limit:.2%} may"
    found = "unknown" if bar.found is None else f"{bar.found:.1f} ms"
    return f"{bar.name} is {found}, at most {bar.limit:g} ms is allowed"


def _breakpoint(data: dict[str, Any] | None) -> Breakpoint | None:
    if data is None:
        return None
    return Breakpoint(**{**data, "steps": [Step(**step) for step in data["steps"]]})
