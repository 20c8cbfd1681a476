"""The names that a shell suggests while a command is typed: tokens of applications, numbers of chats."""

from typing import NamedTuple

from sqlalchemy import bindparam, select

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import STORED, RowMapper, hot
from backend.storage.postgres.tables import application, chat

AFTER_TOKEN_CHARACTERS = "\x7f"
"""Sorts behind every character of a token, which are ASCII."""


class NamedToken(NamedTuple):
    """An application's token and name."""

    token: str
    name: str


_NAMED_TOKENS = RowMapper(NamedToken)
_named_token = select(application.c.token, application.c.name).where(
    application.c.removed_at.is_(None)
)
NEWEST_TOKENS = hot(
    "newest_tokens",
    _named_token.order_by(application.c.created_at.desc(), application.c.id.desc()).limit(
        bindparam("limit")
    ),
)
# Tokens are compared byte by byte (their column's collation is C), so the unique index serves a range.
TOKENS_BETWEEN = hot(
    "tokens_between",
    _named_token.where(
        application.c.token >= bindparam("token"), application.c.token < bindparam("token_end")
    )
    .order_by(application.c.token)
    .limit(bindparam("limit")),
)
NEWEST_CHATS = hot(
    "newest_chats",
    select(chat.c.number)
    .join(application, application.c.id == chat.c.application_id)
    .where(application.c.token == bindparam("token"), chat.c.state == STORED)
    .order_by(chat.c.number.desc())
    .limit(bindparam("limit")),
)


def tokens_beginning_with(connection: Connection, prefix: str, limit: int) -> list[NamedToken]:
    """Applications whose token begins so, ordered by it; without a prefix the newest ones, newest first."""
    if not prefix:
        return _NAMED_TOKENS.all(connection.execute(NEWEST_TOKENS, {"limit": limit}))
    values = {"token": prefix, "token_end": prefix + AFTER_TOKEN_CHARACTERS, "limit": limit}
    return _NAMED_TOKENS.all(connection.execute(TOKENS_BETWEEN, values))


def newest_chat_numbers(connection: Connection, token: str, limit: int) -> list[int]:
    """The highest numbers of an application's stored chats, the highest first."""
    values = {"token": token, "limit": limit}
    return list(connection.execute(NEWEST_CHATS, values).scalars())
