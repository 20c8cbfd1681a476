"""Retention policies: the age at which workers delete an application's messages, and how far they have come.

A policy is applied in passes. A pass deletes what was created before one time, chat by chat, and its row says
how far it is, so any worker continues it. It is locked by the worker that does so.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, select, text, update

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper
from backend.storage.postgres.tables import application, retention

# A pass begins once a hundredth of the age has gone by since the last one, but within these limits.
MIN_INTERVAL_SECONDS = 60
MAX_INTERVAL_SECONDS = 3_600


class RetentionPass(NamedTuple):
    """A pass deletes an application's messages from before `until`; chats up to `chat_id` are done."""

    application_id: int
    token: str
    until: datetime
    chat_id: int


_PASSES = RowMapper(RetentionPass)
_of_token = select(application.c.id).where(
    application.c.token == bindparam("of_token"), application.c.removed_at.is_(None)
)
_of_application = retention.c.application_id == bindparam("of_id")
# text(): arrays, the rows of another table, and what replaces them.
SET = text(
    """
    INSERT INTO retention (application_id, seconds)
    SELECT a.id, w.seconds FROM unnest(cast(:tokens AS text[]), cast(:ages AS bigint[]))
        AS w(token, seconds)
    JOIN application a ON a.token = w.token AND a.removed_at IS NULL
    ON CONFLICT (application_id) DO UPDATE
    SET seconds = excluded.seconds, pass_until = NULL, pass_chat = 0, passed_at = NULL"""
)
UNSET = delete(retention).where(retention.c.application_id.in_(_of_token))
SECONDS = select(retention.c.seconds).where(retention.c.application_id.in_(_of_token))
# text(): SKIP LOCKED in a common table expression.
LOCK_DUE = text(
    f"""
    WITH due AS (
        SELECT r.application_id, a.token FROM retention r JOIN application a ON a.id = r.application_id
        WHERE a.removed_at IS NULL AND (r.pass_until IS NOT NULL OR r.passed_at IS NULL
            OR r.passed_at < now() - make_interval(secs =>
                least(greatest(r.seconds / 100, {MIN_INTERVAL_SECONDS}), {MAX_INTERVAL_SECONDS})))
        ORDER BY r.passed_at NULLS FIRST LIMIT 1 FOR UPDATE OF r SKIP LOCKED)
    UPDATE retention r SET pass_until = coalesce(r.pass_until, now() - make_interval(secs => r.seconds))
    FROM due WHERE r.application_id = due.application_id
    RETURNING r.application_id, due.token, r.pass_until AS until, r.pass_chat AS chat_id"""
)
ADVANCE = update(retention).where(_of_application).values(pass_chat=bindparam("new_chat"))
FINISH = (
    update(retention)
    .where(_of_application)
    .values(pass_until=None, pass_chat=0, passed_at=func.clock_timestamp())
)


def set_retention(tx: Connection, token: str, seconds: int) -> bool:
    """Set an application's policy; its first pass begins soon. False if there is no such application."""
    return set_retentions(tx, {token: seconds}) > 0


def set_retentions(tx: Connection, ages: Mapping[str, int]) -> int:
    """Set the policies of applications, by token, in seconds; returns how many of these there are."""
    if not ages:
        return 0
    return tx.execute(SET, {"tokens": list(ages), "ages": list(ages.values())}).rowcount


def unset_retention(tx: Connection, token: str) -> None:
    """Remove an application's policy, if it has one."""
    tx.execute(UNSET, {"of_token": token})


def find_retention(connection: Connection, token: str) -> int | None:
    """The age of an application's policy, in seconds; None if it has none."""
    seconds: int | None = connection.scalar(SECONDS, {"of_token": token})
    return seconds


def lock_due_pass(tx: Connection) -> RetentionPass | None:
    """A pass that is due, or has begun, locked until the transaction ends; None if there is none to do."""
    return _PASSES.one_or_none(tx.execute(LOCK_DUE))


def advance_pass(tx: Connection, application_id: int, chat_id: int) -> None:
    """Record that the locked pass has done the chats up to that id."""
    tx.execute(ADVANCE, {"of_id": application_id, "new_chat": chat_id})


def finish_pass(tx: Connection, application_id: int) -> None:
    """Record that the locked pass has done all chats."""
    tx.execute(FINISH, {"of_id": application_id})
