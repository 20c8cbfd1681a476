"""`/readyz` and the page during an upgrade."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from backend.api.health.poller import HealthPoller
from backend.api.routes.probes import readyz
from backend.bootstrap import Backend
from backend.monitoring.health import HealthSnapshot
from backend.monitoring.summary import Figure, HealthState, group_figures
from backend.storage.postgres.schema import raise_compatible_since
from tests.support.waiting import wait_until


def test_a_server_that_the_database_does_not_admit_any_more_is_not_ready(backend: Backend) -> None:
    """Its page says what to do. A load balancer sends it nothing until it has ended."""
    wait_until(
        lambda: ask(backend)[0] == (200, "ready")
    )  # unless the machine is too busy to answer
    with backend.database.begin() as tx:
        raise_compatible_since(tx, "9999")
    wait_until(lambda: ask(backend)[0] == (503, "incompatible"))
    snapshots = []

    def is_reported() -> bool:
        snapshots.append(ask(backend)[1])
        return schema_figure(snapshots[-1]).state is HealthState.CRITICAL

    wait_until(is_reported)
    assert schema_figure(snapshots[-1]).advice.endswith("run a newer instachat")


def ask(backend: Backend) -> tuple[tuple[int, str], HealthSnapshot]:
    """The status and the state that `/readyz` answers, and what the answer comes from."""

    async def answer() -> tuple[tuple[int, str], HealthSnapshot]:
        poller = HealthPoller(backend)
        service: Any = SimpleNamespace(health_poller=poller)
        response = await readyz(service)
        return (
            response.status_code,
            json.loads(bytes(response.body))["status"],
        ), await poller.poll()

    return asyncio.run(answer())


def schema_figure(snapshot: HealthSnapshot) -> Figure:
    """The page's line about the schema."""
    figures = [figure for group in group_figures(snapshot) for figure in group.figures]
    return next(figure for figure in figures if figure.name == "Schema")
