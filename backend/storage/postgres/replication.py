"""The server's part in replication: whether it is the primary, and which standbys follow it."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper


class Standby(NamedTuple):
    """A standby that is connected; all but its name is None if the user may not read it."""

    name: str
    state: str | None
    """`streaming` if it receives what is committed, otherwise it catches up first."""
    sync_state: str | None
    """`async`, or how commits wait for it: `sync`, `quorum`, `potential`."""
    behind_seconds: float | None
    """How long what it has replayed last took to get there, or how long nothing was heard of it."""
    behind_bytes: int | None
    """How much it has not replayed yet."""


class Replication(NamedTuple):
    """The server's part in replication."""

    is_standby: bool
    synchronous_names: str
    """The setting `synchronous_standby_names`; empty if commits wait for no standby."""
    standbys: Sequence[Standby]
    """Of a primary, those that are connected."""


_ROLE = text(
    "SELECT pg_is_in_recovery() AS is_standby,"
    " current_setting('synchronous_standby_names') AS synchronous_names"
)
# A standby reports at least every ten seconds, by default.
_STANDBYS = text(
    """
    SELECT coalesce(nullif(application_name, ''), client_addr::text, 'a standby') AS name,
        state, sync_state,
        extract(epoch FROM greatest(replay_lag, now() - reply_time - interval '10 s', interval '0'))
            ::float8 AS behind_seconds,
        pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS behind_bytes
    FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY name"""
)


def read_replication(connection: Connection) -> Replication:
    """The server's part in replication, as far as the user may read it."""
    role = connection.execute(_ROLE).one()
    standbys: Sequence[Standby] = ()
    if not role.is_standby:
        standbys = RowMapper(Standby).all(connection.execute(_STANDBYS))
    return Replication(role.is_standby, role.synchronous_names, standbys)
