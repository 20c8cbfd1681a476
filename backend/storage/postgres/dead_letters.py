"""Dead letters: events that could not be stored, and messages that could not be published."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import DateTime, Text, and_, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import PAGE, STORED, RowMapper, field_names
from backend.storage.postgres.tables import application, chat, dead_letter

DEAD_LETTER_KINDS = ("drain", "publish")
MESSAGE_NUMBER_TAKEN = "another message has this number"
CHAT_NUMBER_TAKEN = "another chat has this number"


class DeadLetter(NamedTuple):
    """An event that could not be stored. Operators name it by its `key`."""

    key: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes


class StoredDeadLetter(NamedTuple):
    """A dead letter's row; `kind` says what failed: drain or publish."""

    id: int
    kind: str
    letter: DeadLetter
    created_at: datetime


class DeadLetterFilter(NamedTuple):
    """Which dead letters: None admits all. `reason` is a part of the reason in any case."""

    kind: str | None = None
    token: str | None = None
    reason: str | None = None
    since: datetime | None = None


class DuplicateNumber(NamedTuple):
    """A dead letter whose number something else has: a chat's (`chat` is None), or a message's."""

    key: str
    token: str
    chat: int | None
    number: int


_DUPLICATES = RowMapper(DuplicateNumber)
ADD = insert(dead_letter).on_conflict_do_nothing(index_elements=["key"])
COUNT = select(dead_letter.c.kind, func.count().label("total")).group_by(dead_letter.c.kind)
_by_key = dead_letter.c.key == bindparam("key")
_dead_letter = select(
    dead_letter.c.id,
    dead_letter.c.kind,
    *(dead_letter.c[name] for name in field_names(DeadLetter)),
    dead_letter.c.created_at,
)
DEAD_LETTER = _dead_letter.where(_by_key)
_token = bindparam("token", type_=Text)
_kind, _reason = bindparam("kind", type_=Text), bindparam("reason", type_=Text)
_since = bindparam("since", type_=DateTime(timezone=True))
DEAD_LETTERS = (
    _dead_letter.where(
        dead_letter.c.id > bindparam("after"),
        or_(_kind.is_(None), dead_letter.c.kind == _kind),
        or_(_token.is_(None), dead_letter.c.token == _token),
        or_(
            _reason.is_(None),
            func.strpos(func.lower(dead_letter.c.reason), func.lower(_reason)) > 0,
        ),
        or_(_since.is_(None), dead_letter.c.created_at >= _since),
    )
    .order_by(dead_letter.c.id)
    .limit(bindparam("limit"))
)
_duplicates = (
    select(*(dead_letter.c[name] for name in field_names(DuplicateNumber)))
    .join(application, application.c.token == dead_letter.c.token)
    .outerjoin(
        chat,
        and_(chat.c.application_id == application.c.id, chat.c.number == dead_letter.c.chat),
    )
    .where(
        dead_letter.c.kind == "drain",
        dead_letter.c.reason.in_([MESSAGE_NUMBER_TAKEN, CHAT_NUMBER_TAKEN]),
        application.c.removed_at.is_(None),
        or_(dead_letter.c.chat.is_(None), chat.c.state == STORED),
    )
)
DUPLICATE_NUMBERS = _duplicates.where(
    or_(_token.is_(None), application.c.token == _token)
).order_by(dead_letter.c.id)
COUNT_DUPLICATE_NUMBERS = select(func.count()).select_from(_duplicates.subquery())
EXISTING_KEYS = select(dead_letter.c.key).where(
    dead_letter.c.key.in_(bindparam("keys", expanding=True))
)
LOCK = select(dead_letter.c.id).where(_by_key).with_for_update()
DELETE = delete(dead_letter).where(_by_key)


def add_dead_letters(tx: Connection, letters: Sequence[DeadLetter], kind: str = "drain") -> None:
    """Store events that could not be stored, or published; one that is stored already stays as it is."""
    tx.execute(ADD, [{**letter._asdict(), "kind": kind} for letter in letters])


def count_dead_letters(connection: Connection) -> dict[str, int]:
    """How many dead letters there are, by kind."""
    totals = {row.kind: row.total for row in connection.execute(COUNT)}
    return dict.fromkeys(DEAD_LETTER_KINDS, 0) | totals


def list_dead_letters(
    connection: Connection, selected: DeadLetterFilter, after: int, limit: int
) -> list[StoredDeadLetter]:
    """A page of the selected dead letters, the oldest first; `after` is the previous one's id."""
    values = {**selected._asdict(), "after": after, "limit": limit}
    rows = connection.execute(DEAD_LETTERS, values)
    return [_to_stored_dead_letter(row) for row in rows]


def find_dead_letter(connection: Connection, key: str) -> StoredDeadLetter | None:
    """One dead letter; None if it does not exist."""
    row = connection.execute(DEAD_LETTER, {"key": key}).one_or_none()
    return None if row is None else _to_stored_dead_letter(row)


def iter_duplicate_numbers(connection: Connection, token: str | None) -> Iterator[DuplicateNumber]:
    """The dead letters, of all or of one application, whose number something else has; the oldest first.

    Not those under a removed parent. They are read a page at a time.
    """
    options = {"yield_per": PAGE}
    return _DUPLICATES.stream(
        connection.execute(DUPLICATE_NUMBERS, {"token": token}, execution_options=options)
    )


def count_duplicate_numbers(connection: Connection) -> int:
    """How many dead letters `iter_duplicate_numbers` yields."""
    return int(connection.scalar(COUNT_DUPLICATE_NUMBERS) or 0)


def existing_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of these keys whose dead letters still exist."""
    return set(connection.scalars(EXISTING_KEYS, {"keys": list(keys)}))


def lock_dead_letter(tx: Connection, key: str) -> bool:
    """Lock a dead letter until the transaction ends; False if it does not exist any more."""
    return tx.execute(LOCK, {"key": key}).one_or_none() is not None


def delete_dead_letter(tx: Connection, key: str) -> bool:
    """Delete a dead letter; False if it does not exist."""
    return tx.execute(DELETE, {"key": key}).rowcount > 0


def _to_stored_dead_letter(row: Any) -> StoredDeadLetter:
    letter = DeadLetter(**{name: getattr(row, name) for name in DeadLetter._fields})
    return StoredDeadLetter(row.id, row.kind, letter, row.created_at)
