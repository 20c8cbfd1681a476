"""The result of a run: the JSON of `instachat bench run -o json`, which reports and comparisons read.

`Result.to_json` and `Result.from_json` are inverse, except for `histogram_log`. A reader rejects a `version`
it does not know; adding a field with a default does not change the version. Fields whose names end with `_ms`
are in milliseconds, those that end with `_s` are in seconds since the run's start, and rates are per second.

`requests`, `total`, `lag_ms`, `cpu` and `memory_mb` cover the measured window only, without ramp-up, ramp-
down and warm-up. `timeline` and `audit` cover the whole run.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

VERSION = 1
NEUTRAL_COUNTS = frozenset(
    (
        *("answered", "stored", "searchable", "deleted", "unknown", "unknown_stored"),
        *("chats_answered", "chats_stored", "pages_read", "pages_not_modified"),
        *("followers", "deliveries_received"),
    )
)
"""Counts of an audit that are no faults."""


class LoadModel(StrEnum):
    """When requests are sent: `closed`, each user waits for its answers; `open`, at a fixed rate."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(frozen=True)
class Window:
    """The part of the run that is measured."""

    from_s: float
    to_s: float


@dataclass(frozen=True)
class RouteStatistics:
    """The requests of one route, or of all. A latency counts from the time at which the request was *due*.

    `failures` counts all requests without the expected answer. `unknown` counts those of them whose answer
    was lost or a 5xx, so that the server may or may not have done the work. `errors` counts failures by
    status or exception.
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
    p90_ms: float | None = None  # None in an older result, too
    p999_ms: float | None = None

    @property
    def error_share(self) -> float:
        """The share of requests that failed, 0 to 1."""
        return self.failures / self.count if self.count else 0.0


@dataclass(frozen=True)
class LatencyBucket:
    """How many requests took so long: at least `from_ms`, and less than `to_ms`."""

    from_ms: float
    to_ms: float
    count: int


@dataclass(frozen=True)
class Spread:
    """Percentiles of samples; `missed` counts those that took longer than the tool waits."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    missed: int = 0


@dataclass(frozen=True)
class Lags:
    """The time from a message's answer until a read returns it, a search finds it, a follower receives it.

    `delivered` is None unless the scenario has followers. A message is a sample for each follower that was
    connected when it was answered. Its `missed` are those of `DeliveryAudit`.
    """

    stored: Spread
    searchable: Spread
    delivered: Spread | None = None

    def items(self) -> list[tuple[str, Spread]]:
        """Each lag that the run has, with the name of its end."""
        lags = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(until, spread) for until, spread in lags if spread is not None]


@dataclass(frozen=True)
class Cpu:
    """Processors used on average; 1.0 is one processor busy all the time. `servers` is None with --host."""

    generator: float
    servers: float | None
    busiest: float  # the busiest generator process; it can use at most one processor
    machine: float  # used by all programs on this machine
    processors: int


@dataclass(frozen=True)
class Memory:
    """The highest memory use of all processes together, in MB (10⁶ bytes); shared pages count once."""

    generator: float
    servers: float | None


@dataclass(frozen=True)
class Moment:
    """One second of the run. Values that were not sampled in it are None.

    Latencies and failures cover the requests that were due in it; `rate` counts the answers that came in it.
    """

    at_s: float
    level: float  # planned users, or planned arrivals a second
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
    delivered_ms: float | None = None


@dataclass(frozen=True)
class Level:
    """The requests of one level of `stress` or `spike`, all routes together."""

    level: float  # users, or arrivals a second
    from_s: float
    to_s: float
    requests: RouteStatistics


@dataclass(frozen=True)
class ChatAudit:
    """The audit of the numbers of chats that the run created.

    `stored` is None if the server can't list its chats. Then a lost chat is not found.
    """

    answered: int = 0
    stored: int | None = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0


@dataclass(frozen=True)
class PageAudit:
    """The audit of the pages that were read during the run, from the newest message backwards.

    `read`: pages, `not_modified` (304) included. `stale`: without a message that was known to be stored.
    `incomplete`: without a number between its newest and oldest one, or too short. `disordered`: not from
    greater to smaller numbers, or not before the number that was asked for. `wrong_text`: another text than
    was sent.
    """

    read: int = 0
    not_modified: int = 0
    stale: int = 0
    incomplete: int = 0
    disordered: int = 0
    wrong_text: int = 0


@dataclass(frozen=True)
class DeliveryAudit:
    """The audit of what followers received during the run.

    `received`: events of messages, at all followers together. `missed`: answered, but not received by a
    follower. `doubled`: received again. `reordered`: received after a greater number. `wrong_text`: another
    text than was sent.
    """

    received: int = 0
    missed: int = 0
    doubled: int = 0
    reordered: int = 0
    wrong_text: int = 0


@dataclass(frozen=True)
class Audit:
    """The comparison of every answered number with what the server stores, made over HTTP after the run.

    `answered`: messages that must be stored; deleted ones are counted by `deleted` instead. `stored`,
    `searchable`: how many of them are stored, and found by a search, with the right text. `lost`: answered
    but not stored. `doubled`: one number answered twice, or one request stored twice. `gaps`: numbers below
    a chat's highest that were never answered and are not stored. `unasked`: stored but never sent. `undead`:
    deleted but still stored. `unsearchable`: stored but not found by a search. `leaked`: listed in, or found
    by a search of, another chat than the one that it was sent to. `unknown`: sent, but the answer was lost or
    a 5xx. `unknown_stored`: how many of those are stored, which is not a fault.
    `searchable` is None if the server can't search.
    `followers`: clients that followed chats. Without any, `deliveries` is None. `pages` is
    None if none was read.
    """

    answered: int = 0
    stored: int = 0
    searchable: int | None = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    wrong_text: int = 0
    unasked: int = 0
    undead: int = 0
    unsearchable: int = 0
    leaked: int = 0
    deleted: int = 0
    unknown: int = 0
    unknown_stored: int = 0
    followers: int = 0
    chats: ChatAudit = field(default_factory=ChatAudit)
    pages: PageAudit | None = None
    deliveries: DeliveryAudit | None = None
    examples: list[str] = field(default_factory=list)  # the first few faults, in words
    seconds: float = 0.0

    @property
    def faults(self) -> dict[str, int]:
        """The number of faults by kind; empty if there are none."""
        counts = self.counts()
        return {kind: n for kind, n in counts.items() if n and kind not in NEUTRAL_COUNTS}

    def counts(self) -> dict[str, int]:
        """All counts; the names of those of a part begin with the part's name."""
        found = {
            item.name: value
            for item in dataclasses.fields(self)
            if isinstance(value := getattr(self, item.name), int)
        }
        for part in ("chats", "pages", "deliveries"):
            if audited := getattr(self, part):
                found |= {
                    f"{part}_{kind}": n
                    for kind, n in dataclasses.asdict(audited).items()
                    if n is not None
                }
        return found


@dataclass(frozen=True)
class Threshold:
    """A limit, and whether the run kept it. If nothing was measured, `found` is None and it is not kept."""

    name: str  # p99 or errors
    limit: float  # milliseconds, or a share of 0 to 1
    found: float | None
    kept: bool


@dataclass(frozen=True)
class BreakpointStep:
    """One level of a `breakpoint` run: the planned rate, the answered rate, and whether it held."""

    level: float
    rate: float
    p99_ms: float | None
    error_share: float
    held: bool
    why: str = ""  # which limits it missed


@dataclass(frozen=True)
class Breakpoint:
    """The highest level that held, None if none did, and each step in order."""

    level: float | None
    rate: float | None
    steps: list[BreakpointStep] = field(default_factory=list)
    max_p99_ms: float = 0.0  # the limits of a step
    max_errors: float = 0.0

    @property
    def limits(self) -> str:
        """The limits of a step, in words."""
        return f"p99 ≤ {self.max_p99_ms:g} ms, failed ≤ {self.max_errors:.2%}"


@dataclass(frozen=True)
class Trend:
    """Whether a value was steady: from `from_s` on, or never if that is None.

    `change` is the share by which it has changed from there, or from the window's begin, until the end.
    """

    name: str
    from_s: float | None
    change: float


@dataclass(frozen=True)
class FaultEffect:
    """A fault that was injected, and what it has cost until the next one or the end of the run.

    `answering_after_s`, `storing_after_s` and `finding_after_s` are whole seconds from its begin until all
    was as before: answers, and the times from an answer until its message is stored and is found. They are
    None if that never was, or if what was before is not known.
    """

    fault: str  # as it was given, such as kill:worker@20s
    from_s: float
    to_s: float
    failures: int
    highest_p99_ms: float | None  # of a second
    answering_after_s: int | None
    storing_after_s: int | None
    finding_after_s: int | None = None  # None in an older result, too


@dataclass(frozen=True)
class Frame:
    """A function of a profile, called from the frame before it that is one less deep."""

    depth: int  # 0: the whole
    name: str
    samples: int  # in it, or in what it called


@dataclass(frozen=True)
class Profile:
    """Where the processes of the server or of the worker spent their time in the measured window.

    `samples` are the moments, of `rate` a second, in which one of their threads ran Python; several processes
    may have more than one at once. `frames` are in the order of a walk through the tree. Rare ones are left
    out.
    """

    of: str  # server or worker
    seconds: float
    rate: int
    samples: int
    frames: list[Frame]


@dataclass(frozen=True)
class OtherServer:
    """The API of a server that is not this project's, by its adapter."""

    name: str
    requests: dict[str, str]  # what was sent for each route that `requests` of the result may name
    left_out: list[str] = field(default_factory=list)  # what it can't do, in words


@dataclass(frozen=True)
class Result:
    """One run."""

    scenario: str
    profile: str
    model: LoadModel
    seed: int
    users: int  # closed: the highest number; open: the most requests under way at once
    rate: float | None  # open: the highest arrivals a second
    processes: int
    started_at: str  # RFC 3339, UTC
    duration_s: float
    window: Window
    host: str
    private: bool  # the installation was started for this run and removed after it
    interrupted: bool
    requests: list[RouteStatistics]
    total: RouteStatistics
    lag_ms: Lags
    cpu: Cpu
    memory_mb: Memory
    audit: Audit
    thresholds: list[Threshold] = field(default_factory=list)
    breakpoint: Breakpoint | None = None
    levels: list[Level] = field(default_factory=list)  # of a profile with several levels; in order
    timeline: list[Moment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # machine, versions, commit, settings
    planned_s: float | None = None  # the planned length; `duration_s` is the actual one
    chats: int | None = None  # at the begin of the load; None in an older result
    preload: int = 0  # messages that the installation had before the run
    arrivals: str | None = (
        None  # open: their spacing; None in an older result, whose spacing is even
    )
    aborted: str | None = None  # why a limit of --abort-on has ended the load
    faults: list[FaultEffect] = field(default_factory=list)  # that were injected, in order
    trends: list[Trend] = field(
        default_factory=list
    )  # empty if the run was too short, or had several levels
    latencies: list[LatencyBucket] = field(default_factory=list)
    """Of all requests of the measured window; without empty buckets. Empty in an older result."""
    other: OtherServer | None = None  # None: this project's API
    profiles: list[Profile] = field(default_factory=list)  # with --profile-server
    histogram_log: tuple[str, ...] = field(default=(), repr=False)
    """The lines of an HdrHistogram log of the latencies; they are not part of the JSON."""
    version: int = VERSION

    @property
    def problems(self) -> list[str]:
        """The reasons why this run did not pass, in words; empty if it passed."""
        faults = [
            f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.audit.faults.items()
        ]
        missed = [_missed(threshold) for threshold in self.thresholds if not threshold.kept]
        nothing = self.breakpoint is not None and self.breakpoint.level is None
        return [
            *([self.aborted] if self.aborted else []),
            *faults,
            *missed,
            *(["not even the first level held"] if nothing else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        data = dataclasses.asdict(self)
        del data["histogram_log"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """The result from the output of `to_json`. Raises ValueError if this program can't read it."""
        if data.get("version") != VERSION:
            raise ValueError(f"not the result of a run, or not of version {VERSION}")
        try:
            return cls(
                **{
                    **data,
                    "model": LoadModel(data["model"]),
                    "window": Window(**data["window"]),
                    "requests": [RouteStatistics(**row) for row in data["requests"]],
                    "total": RouteStatistics(**data["total"]),
                    "lag_ms": Lags(**{k: v and Spread(**v) for k, v in data["lag_ms"].items()}),
                    "cpu": Cpu(**data["cpu"]),
                    "memory_mb": Memory(**data["memory_mb"]),
                    "audit": _audit(data["audit"]),
                    "thresholds": [Threshold(**threshold) for threshold in data["thresholds"]],
                    "breakpoint": _breakpoint(data["breakpoint"]),
                    "levels": [
                        Level(**{**level, "requests": RouteStatistics(**level["requests"])})
                        for level in data.get("levels", [])
                    ],
                    "timeline": [Moment(**moment) for moment in data["timeline"]],
                    "trends": [Trend(**trend) for trend in data.get("trends", [])],
                    "faults": [FaultEffect(**fault) for fault in data.get("faults", [])],
                    "profiles": [
                        Profile(**{**each, "frames": [Frame(**f) for f in each["frames"]]})
                        for each in data.get("profiles", [])
                    ],
                    "other": data.get("other") and OtherServer(**data["other"]),
                    "latencies": [LatencyBucket(**each) for each in data.get("latencies", [])],
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the result of a run: {error}") from None


def dumps(result: Result) -> str:
    """The result as one line of JSON."""
    return json.dumps(result.to_json(), ensure_ascii=False)


def loads(text: str) -> Result:
    """The result from the output of `dumps`. Raises ValueError for any other text."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not the result of a run")
    return Result.from_json(data)


def _missed(threshold: Threshold) -> str:
    found, limit = threshold.found, threshold.limit
    if threshold.name == "errors":
        share = "nothing was measured" if found is None else f"{found:.2%} failed"
        return f"{share}, at most {limit:.2%} may"
    time = "unknown" if found is None else f"{found:.1f} ms"
    return f"{threshold.name} is {time}, at most {limit:g} ms is allowed"


def _audit(data: dict[str, Any]) -> Audit:
    pages, deliveries = data.get("pages"), data.get("deliveries")
    return Audit(
        **{
            **data,
            "chats": ChatAudit(**data["chats"]),
            "pages": pages and PageAudit(**pages),
            "deliveries": deliveries and DeliveryAudit(**deliveries),
        }
    )


def _breakpoint(data: dict[str, Any] | None) -> Breakpoint | None:
    if data is None:
        return None
    return Breakpoint(**{**data, "steps": [BreakpointStep(**step) for step in data["steps"]]})
