"""Totals and rates: how much was accepted, stored and made searchable."""

from dataclasses import replace

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.monitoring.status import Totals, compute_rates, read_status, read_totals
from backend.monitoring.summary import late_stages
from tests.support.faults.shortcuts import send
from tests.support.redis_copy import bring_back, copy_redis


def read_counts(backend: Backend) -> tuple[int | None, int | None, int | None]:
    """The totals without their moment."""
    found = read_totals(backend.database, backend.log)
    return found.accepted, found.stored, found.searchable


def test_totals_count_each_creation_once(backend: Backend, application: str) -> None:
    """It is accepted when its number is issued, and stored when its row exists.

    If the log is read again, nothing is counted again.
    """
    assert read_counts(backend) == (0, 0, 0)
    backend.acceptor.accept(AcceptRequest.chats(application, 3))
    send(backend, application, "a", "b")
    assert read_counts(backend) == (5, 0, 0)
    copy = copy_redis(backend.log.redis)
    backend.drainer.drain_all()
    assert read_counts(backend) == (5, 5, 5)
    bring_back(backend.log.redis, copy)
    send(backend, application, "c")
    backend.drainer.drain_all()
    assert read_counts(backend) == (6, 6, 6)


def test_a_rate_is_the_growth_of_a_total_per_second() -> None:
    """It is unknown if a total is unknown or has fallen, as after a loss of Redis; it is never negative."""
    before = Totals(10.0, accepted=100, stored=100, searchable=None)
    after = Totals(12.0, accepted=150, stored=90, searchable=90)
    found = compute_rates(before, after)
    assert (found.accepted, found.stored, found.searchable) == (25.0, None, None)
    assert compute_rates(before, before).accepted is None


def test_what_waits_for_too_long_is_late(backend: Backend) -> None:
    """Each stage has its limit. No index is late where PostgreSQL searches, and nothing that is unknown."""
    now = read_status(backend.database, backend.log, backend.workers, backend.jobs.length)
    assert late_stages(now, publishes=True) == []
    late = replace(now, workers=0, oldest_seconds=95.0, unpublished_seconds=600.0)
    assert late_stages(late, publishes=False) == [
        "accepted and not stored for 95 s (limit: 10 s), because no worker is running"
    ]
    assert late_stages(late, publishes=True)[1:] == [
        "stored and not searchable for 10 min (limit: 10 s)"
    ]
    assert "paused" in late_stages(replace(late, workers=1, paused=True), publishes=False)[0]
    assert late_stages(replace(late, oldest_seconds=None), publishes=False) == []
