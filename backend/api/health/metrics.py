"""`/metrics`: what Prometheus reads. Totals only: routes by their template, no token, number or text.

What the server's processes do, they have counted (`measures`); what the engines hold is asked when
Prometheus asks, as for the status page.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from backend.api.health import process_metrics
from backend.api.health.poller import HealthSnapshot
from backend.api.service import ServiceDep
from backend.monitoring.status import Status

router = APIRouter(include_in_schema=False)

_GAUGES: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "workers": ("Workers that are running", lambda status: status.workers),
    "queue_jobs": ("Jobs that wait", lambda status: status.queue),
    "queue_paused": ("1 while workers are told to rest", lambda status: status.paused),
    "log_entries": ("Entries accepted and not stored", lambda status: status.waiting),
    "log_oldest_seconds": (
        "Age of the oldest of them",
        lambda status: status.oldest_seconds if status.waiting else status.waiting,
    ),
    "unpublished_messages": (
        "Messages stored and not given to Elasticsearch",
        lambda status: status.unpublished,
    ),
    "unpublished_oldest_seconds": (
        "Age of the oldest of them",
        lambda status: status.unpublished_seconds if status.unpublished else status.unpublished,
    ),
    "unsynced_counters": ("Counts that SQL is behind with", lambda status: status.dirty_counters),
    "sync_lag_seconds": ("Age of the oldest of them", lambda status: status.sync_lag_seconds),
    "reconciled_timestamp_seconds": (
        "When the stores were last compared; 0 if never",
        lambda status: status.reconciled.finished_at.timestamp() if status.reconciled else 0,
    ),
    "reconciled_differences": (
        "How many of the differences found then were not repaired",
        lambda status: (
            status.reconciled.findings - status.reconciled.repaired if status.reconciled else 0
        ),
    ),
}
_COUNTERS: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "accepted": ("Numbers given by this Redis", lambda status: status.totals.accepted),
    "stored": ("Chats and messages that drains have stored", lambda status: status.totals.stored),
}


@router.get("/metrics")
async def metrics(service: ServiceDep, request: Request) -> Response:
    """Everything, in the text format of Prometheus or OpenMetrics."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    snapshot = await service.health_poller.poll()

    process_metrics.flush()

    def render() -> bytes:
        registry = process_metrics.collect()
        registry.register(_EngineCollector(snapshot))
        return encode(registry)

    return Response(await asyncio.to_thread(render), headers={"Content-Type": media_type})


class _EngineCollector(Collector):
    """What the engines hold."""

    def __init__(self, snapshot: HealthSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "instachat_engine_up", "1 while the engine answers", labels=["engine"]
        )
        took = GaugeMetricFamily(
            "instachat_engine_answer_seconds", "How long its answer took", labels=["engine"]
        )
        for engine in self._snapshot.engines:
            up.add_metric([engine.name], engine.seconds is not None)
            if engine.seconds is not None:
                took.add_metric([engine.name], engine.seconds)
        yield up
        yield took
        if status := self._snapshot.status:
            yield from _totals(status)


def _totals(status: Status) -> Iterator[Metric]:
    """What is unknown is left out."""
    for name, (description, value) in _GAUGES.items():
        if (measured := value(status)) is not None:
            yield GaugeMetricFamily(f"instachat_{name}", description, value=measured)
    for name, (description, value) in _COUNTERS.items():
        if (measured := value(status)) is not None:
            yield CounterMetricFamily(f"instachat_{name}", description, value=measured)
    if status.dead_letters is not None:
        description = "What was refused for good, by what refused it"
        dead_letters = GaugeMetricFamily("instachat_dead_letters", description, labels=["kind"])
        for kind, count in status.dead_letters.items():
            dead_letters.add_metric([kind], count)
        yield dead_letters
