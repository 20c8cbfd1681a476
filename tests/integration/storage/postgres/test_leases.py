"""Leases: one holder at a time, whatever is killed or suspended."""

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import Unavailable
from backend.storage.postgres import leases
from backend.storage.postgres.database import Database
from backend.storage.postgres.leases import Lease, LeaseHeld, LeaseLost
from tests.support.waiting import wait_until

NAME = "test"


def expire(database: Database) -> None:
    """Let the lease expire, as if its holder had been suspended."""
    with database.begin() as tx:
        tx.execute(text("UPDATE lease SET expires_at = clock_timestamp()"))


def confirm(database: Database, lease: Lease) -> None:
    """Confirm a lease in a transaction of its own."""
    with database.begin() as tx:
        lease.confirm(tx)


def test_a_lease_is_free_as_soon_as_its_block_ends(backend: Backend) -> None:
    for _ in range(30):
        with leases.hold(backend.database, NAME):
            pass


def test_a_lease_is_refused_while_its_holder_runs(backend: Backend) -> None:
    """The error names the holder. Leases of other names are free."""
    with leases.hold(backend.database, NAME) as lease:
        with pytest.raises(LeaseHeld) as held, leases.hold(backend.database, NAME):
            pass
        assert held.value.holder.name == leases._holder_name()
        with leases.hold(backend.database, "another"):
            confirm(backend.database, lease)


def test_the_heartbeat_extends_a_lease(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that has expired, if no other process has taken it."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)

    def is_expired() -> bool:
        with backend.database.connect() as connection:
            statement = text("SELECT expires_at <= clock_timestamp() FROM lease")
            return bool(connection.scalar(statement))

    with leases.hold(backend.database, NAME) as lease:
        expire(backend.database)
        wait_until(lambda: not is_expired())
        lease.raise_if_lost()


def test_a_lease_of_a_killed_holder_is_taken_over_when_it_expires(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    leases._take(backend.database, NAME)  # without a heartbeat
    with leases.hold(backend.database, NAME) as lease:
        confirm(backend.database, lease)


def test_a_holder_that_lost_its_lease_cannot_commit(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It notices in the transaction that it confirms the lease in, whether a heartbeat has noticed or not.

    When it ends, the next holder keeps the lease.
    """
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 3600)
    with leases.hold(backend.database, NAME) as lost:
        expire(backend.database)
        monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
        with leases.hold(backend.database, NAME) as taken:
            lost.raise_if_lost()
            with pytest.raises(LeaseLost):
                confirm(backend.database, lost)
            with pytest.raises(LeaseLost):
                lost.raise_if_lost()
            lost.release()
            confirm(backend.database, taken)


def test_a_heartbeat_notices_that_the_lease_is_lost(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    with leases.hold(backend.database, NAME) as lease:
        with backend.database.begin() as tx:
            tx.execute(text("UPDATE lease SET term = gen_random_uuid()"))

        def is_lost() -> bool:
            try:
                lease.raise_if_lost()
            except LeaseLost:
                return True
            return False

        wait_until(is_lost)


def test_a_lease_is_not_taken_over_before_its_holder_has_committed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it expires meanwhile."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 3600)

    def take() -> None:
        with backend.database.begin() as other:
            other.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            other.execute(leases.TAKE, {"name": NAME, "holder": "another", "seconds": 1.0})

    with leases.hold(backend.database, NAME) as lease, backend.database.begin() as tx:
        monkeypatch.setattr(leases, "LEASE_SECONDS", -1.0)
        lease.confirm(tx)
        with pytest.raises(Unavailable):  # after the time-out
            take()
