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
from backend.api.health.poller import Seen
from backend.api.service import Here
from backend.monitoring.status import Status

router = APIRouter(include_in_schema=False)

_GAUGES: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "workers": ("Workers that are running", lambda found: found.workers),
    "queue_jobs": ("Jobs that wait", lambda found: found.queue),
    "queue_paused": ("1 while workers are told to rest", lambda found: found.paused),
    "log_entries": ("Entries accepted and not stored", lambda found: found.waiting),
    "log_oldest_seconds": (
        "Age of the oldest of them",
        lambda found: found.oldest_seconds if found.waiting else found.waiting,
    ),
    "unpublished_messages": (
        "Messages stored and not given to Elasticsearch",
        lambda found: found.unpublished,
    ),
    "unpublished_oldest_seconds": (
        "Age of the oldest of them",
        lambda found: found.unpublished_seconds if found.unpublished else found.unpublished,
    ),
    "unsynced_counters": ("Counts that SQL is behind with", lambda found: found.unsynced_counters),
    "sync_lag_seconds": ("Age of the oldest of them", lambda found: found.sync_lag_seconds),
    "reconciled_timestamp_seconds": (
        "When the stores were last compared; 0 if never",
        lambda found: found.reconciled.finished_at.timestamp() if found.reconciled else 0,
    ),
    "reconciled_differences": (
        "How many of the differences found then were not mended",
        lambda found: (
            found.reconciled.findings - found.reconciled.mended if found.reconciled else 0
        ),
    ),
}
_COUNTERS: Final[dict[str, tuple[str, Callable[[Status], float | None]]]] = {
    "accepted": ("Numbers given by this Redis", lambda found: found.totals.accepted),
    "stored": ("Chats and messages that drains have stored", lambda found: found.totals.stored),
}


@router.get("/metrics")
async def metrics(here: Here, request: Request) -> Response:
    """Everything, in the text format of Prometheus or OpenMetrics."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    seen = await here.watch.look()

    process_metrics.write_down()

    def render() -> bytes:
        registry = process_metrics.registry()
        registry.register(_Installation(seen))
        return encode(registry)

    return Response(await asyncio.to_thread(render), headers={"Content-Type": media_type})


class _Installation(Collector):
    """What the engines hold."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "instachat_engine_up", "1 while the engine answers", labels=["engine"]
        )
        took = GaugeMetricFamily(
            "instachat_engine_answer_seconds", "How long its answer took", labels=["engine"]
        )
        for engine in self._seen.engines:
            up.add_metric([engine.name], engine.seconds is not None)
            if engine.seconds is not None:
                took.add_metric([engine.name], engine.seconds)
        yield up
        yield took
        if status := self._seen.status:
            yield from _totals(status)


def _totals(status: Status) -> Iterator[Metric]:
    """What is unknown is left out."""
    for name, (says, value) in _GAUGES.items():
        if (found := value(status)) is not None:
            yield GaugeMetricFamily(f"instachat_{name}", says, value=found)
    for name, (says, value) in _COUNTERS.items():
        if (found := value(status)) is not None:
            yield CounterMetricFamily(f"instachat_{name}", says, value=found)
    if status.dead_letters is not None:
        says = "What was refused for good, by what refused it"
        letters = GaugeMetricFamily("instachat_dead_letters", says, labels=["kind"])
        for kind, count in status.dead_letters.items():
            letters.add_metric([kind], count)
        yield letters
