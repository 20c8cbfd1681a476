"""Short functions for the tests of faults."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import Unavailable
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres.database import Database
from tests.support.waiting import wait_until


def send(backend: Backend, token: str, *texts: str, chat: int = 1) -> int:
    """Accept messages; returns the first number."""
    return backend.acceptor.accept(AcceptRequest.messages(token, chat, texts)).first


def stored(backend: Backend, token: str, chat: int = 1) -> dict[int, str]:
    """The stored texts of a chat, by number."""
    return {m.number: m.text for m in backend.catalog.messages.list(token, chat)}


def scalar(backend: Backend, statement: str, **values: object) -> object:
    """One value, read from SQL directly."""
    with backend.database.connect() as connection:
        value: object = connection.scalar(text(statement), values)
        return value


def accept_eventually(backend: Backend, token: str, message: str) -> int:
    """Accept a message, repeatedly until it is no longer refused; returns its number."""
    given: list[int] = []

    def accepted() -> bool:
        try:
            given.append(send(backend, token, message))
        except Unavailable:
            return False
        return True

    wait_until(accepted)
    return given[0]


@contextmanager
def rejecting_texts(database: Database) -> Iterator[None]:
    """While inside, PostgreSQL refuses a text, as a constraint or an encoding might."""
    rule = "ADD CONSTRAINT rule CHECK (text NOT LIKE '%refused%') NOT VALID"
    with database.begin() as tx:
        tx.execute(text(f"ALTER TABLE message {rule}"))
    yield
    with database.begin() as tx:
        tx.execute(text("ALTER TABLE message DROP CONSTRAINT rule"))
