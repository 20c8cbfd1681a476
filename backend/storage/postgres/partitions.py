"""The partitions of the table of messages: one table, or several by the hash of the chat's id.

No statement names a partition, so every program runs with either. One table is the default: with partitions
PostgreSQL takes longer to plan each statement and to find the partition while it runs (docs/postgresql.md).
"""

import time

from sqlalchemy import text

from backend.domain.errors import Unavailable
from backend.storage.postgres.database import Connection, Database, sqlstate
from backend.storage.postgres.interruptible import run_interruptibly
from backend.storage.postgres.locks import lock_migration

LOCK_TIMEOUT_SECONDS = 2
RETRY_DELAY_SECONDS = 1.0
MAX_ATTEMPTS = 40  # about two minutes
_LOCK_ERRORS = ("55P03", "40P01")  # the lock was not free in time; a deadlock
COUNT = text(
    """
    SELECT CASE WHEN relkind = 'p' THEN (SELECT count(*) FROM pg_inherits WHERE inhparent = c.oid)
           ELSE 1 END
    FROM pg_class c WHERE c.oid = 'message'::regclass"""
)


def count_partitions(connection: Connection) -> int:
    """How many partitions the messages have; 1 if they are in one table."""
    found: int = connection.scalar(COUNT)
    return found


def partition_messages(database: Database, count: int) -> int:
    """Distribute the messages over so many partitions, or put them in one table; returns how many were there.

    Copies all rows, in one transaction. Meanwhile messages are accepted and read, but not stored, edited or
    deleted. Raises Unavailable, changing nothing, if other transactions keep the table for about two minutes.
    A KeyboardInterrupt ends it at once, with nothing changed.
    """
    with database.begin() as tx:
        return run_interruptibly(tx, lambda: _distribute(tx, count))


def _distribute(tx: Connection, count: int) -> int:
    lock_migration(tx)
    before = count_partitions(tx)
    if before == count:
        return before
    tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
    # A drain that finds its shard locked returns, and the log keeps what is accepted.
    _retry(tx, "SELECT FROM shard ORDER BY number FOR UPDATE")
    _retry(tx, "LOCK TABLE message IN EXCLUSIVE MODE")  # reading goes on
    _copy(tx, count)
    _retry(tx, "LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
    tx.exec_driver_sql("DROP TABLE message")
    _rename(tx, "new_message", "message")
    for number in range(count if count > 1 else 0):
        _rename(tx, f"new_message_{number}", f"message_{number}")
    return before


def _retry(tx: Connection, statement: str) -> None:
    """Take locks in short attempts: while one waits for a table, all others who want it wait behind it."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        savepoint = tx.begin_nested()
        try:
            tx.exec_driver_sql(statement)
        except Exception as error:
            if sqlstate(error) not in _LOCK_ERRORS:
                raise
            savepoint.rollback()
            if attempt == MAX_ATTEMPTS:
                raise Unavailable(
                    "other transactions keep the table of messages locked; nothing was changed",
                    "end them (see pg_stat_activity), and try again",
                ) from error
            time.sleep(RETRY_DELAY_SECONDS)
        else:
            savepoint.commit()
            return


def _copy(tx: Connection, count: int) -> None:
    tx.exec_driver_sql(
        "CREATE TABLE new_message (LIKE message INCLUDING ALL)"
        + (" PARTITION BY HASH (chat_id)" if count > 1 else "")
    )
    for number in range(count if count > 1 else 0):
        tx.exec_driver_sql(
            f"CREATE TABLE new_message_{number} PARTITION OF new_message"
            f" FOR VALUES WITH (MODULUS {count}, REMAINDER {number})"
        )
    tx.exec_driver_sql("INSERT INTO new_message SELECT * FROM message")
    tx.exec_driver_sql("ANALYZE new_message")


def _rename(tx: Connection, table: str, name: str) -> None:
    tx.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {name}")
    tx.exec_driver_sql(f"ALTER TABLE {name} RENAME CONSTRAINT {table}_pkey TO {name}_pkey")
