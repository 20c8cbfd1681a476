"""What `/metrics` exposes to Prometheus. Totals only: routes by their template, no token, number or text.

The server's processes count their own work (`process_metrics`). The state of the engines is read when
Prometheus asks, as for the status page.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from backend.api.health import process_metrics
from backend.monitoring.health import HealthSnapshot
from backend.monitoring.status import Status


def _accepted(status: Status) -> int | None:
    """None while shards are away: a counter that falls counts as one that began again at 0."""
    return None if status.totals.away else status.totals.accepted


_GAUGES: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "workers": ("Workers that are running", lambda status: status.workers),
    "queue_jobs": ("Jobs waiting in the queue", lambda status: status.queue),
    "queue_paused": ("1 while the queue is paused", lambda status: status.paused),
    "log_entries": (
        "Log entries that are accepted and not stored yet",
        lambda status: status.waiting,
    ),
    "log_oldest_seconds": (
        "Age of the oldest entry that is not stored yet",
        lambda status: status.oldest_seconds if status.waiting else status.waiting,
    ),
    "unpublished_messages": (
        "Messages that are stored and not published to Elasticsearch yet",
        lambda status: status.unpublished,
    ),
    "unpublished_oldest_seconds": (
        "Age of the oldest message that is not published yet",
        lambda status: status.unpublished_seconds if status.unpublished else status.unpublished,
    ),
    "unsynced_counters": (
        "Counters whose value in SQL is out of date",
        lambda status: status.dirty_counters,
    ),
    "sync_lag_seconds": (
        "Age of the oldest counter that is not written to SQL yet",
        lambda status: status.sync_lag_seconds,
    ),
    "redis_nodes": (
        "Nodes of Redis: a single server, or the primaries and replicas of a cluster",
        lambda status: status.redis_nodes.nodes if status.redis_nodes else None,
    ),
    "redis_nodes_away": (
        "Nodes of Redis that do not answer",
        lambda status: status.redis_nodes.away if status.redis_nodes else None,
    ),
    "redis_replicas_behind": (
        "Replicas of Redis that do not follow their primaries",
        lambda status: status.redis_nodes.behind if status.redis_nodes else None,
    ),
    "redis_memory_share": (
        "The part of its memory limit, or of its machine's memory, that the fullest node of Redis uses",
        lambda status: (status.redis_nodes.memory_share or 0) if status.redis_nodes else None,
    ),
    "rate_limits": ("Applications with a rate limit", lambda status: status.rate_limits),
    "lost_numbers": (
        "Accepted numbers that neither PostgreSQL nor the log has, since PostgreSQL went back in time",
        lambda status: status.rewound.lost if status.rewound else (0 if status.schema else None),
    ),
    "rewound_timestamp_seconds": (
        "When PostgreSQL was last found to have gone back in time; 0 if never",
        lambda status: (
            status.rewound.at.timestamp() if status.rewound else (0 if status.schema else None)
        ),
    ),
    "reconciled_timestamp_seconds": (
        "When the stores were last compared; 0 if never",
        lambda status: status.reconciled.finished_at.timestamp() if status.reconciled else 0,
    ),
    "reconciled_differences": (
        "Differences found by that comparison and not repaired",
        lambda status: (
            status.reconciled.findings - status.reconciled.repaired if status.reconciled else 0
        ),
    ),
}
_COUNTERS: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "accepted": ("Numbers assigned by this Redis", _accepted),
    "stored": ("Chats and messages stored by drains", lambda status: status.totals.stored),
}


def render(snapshot: HealthSnapshot, accept: str) -> tuple[bytes, str]:
    """The metrics of all of the server's processes and of the engines: the text and its media type.

    `accept` is the request's header of that name; it chooses between Prometheus's format and OpenMetrics.
    """
    encode, media_type = choose_encoder(accept)
    registry = process_metrics.collect()
    registry.register(_EngineCollector(snapshot))
    return encode(registry), media_type


class _EngineCollector(Collector):
    """The state of the engines, as metrics."""

    def __init__(self, snapshot: HealthSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "instachat_engine_up", "1 while the engine responds", labels=["engine"]
        )
        seconds = GaugeMetricFamily(
            "instachat_engine_answer_seconds", "Response time of the engine", labels=["engine"]
        )
        for engine in self._snapshot.engines:
            up.add_metric([engine.name], engine.seconds is not None)
            if engine.seconds is not None:
                seconds.add_metric([engine.name], engine.seconds)
        away = GaugeMetricFamily(
            "instachat_shards_away", "Shards whose node of Redis does not answer, while others do"
        )
        for engine in self._snapshot.engines:
            if engine.name == "Redis" and engine.seconds is not None:
                away.add_metric([], len(engine.shards_away))
        yield up
        yield seconds
        yield away
        if status := self._snapshot.status:
            yield from _totals(status)


def _totals(status: Status) -> Iterator[Metric]:
    """The metrics of a status report, without unknown values."""
    for name, (description, value) in _GAUGES.items():
        if (measured := value(status)) is not None:
            yield GaugeMetricFamily(f"instachat_{name}", description, value=measured)
    for name, (description, value) in _COUNTERS.items():
        if (measured := value(status)) is not None:
            yield CounterMetricFamily(f"instachat_{name}", description, value=measured)
    if status.dead_letters is not None:
        description = "Dead letters, by the step that rejected them"
        dead_letters = GaugeMetricFamily("instachat_dead_letters", description, labels=["kind"])
        for kind, count in status.dead_letters.items():
            dead_letters.add_metric([kind], count)
        yield dead_letters
