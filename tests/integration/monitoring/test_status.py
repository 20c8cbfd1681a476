"""Totals and rates: how much was accepted, stored and made searchable."""

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.monitoring.status import Totals, compute_rates, read_totals
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
