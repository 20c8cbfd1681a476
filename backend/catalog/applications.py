"""Applications: creating, reading, renaming and deleting them."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from backend.catalog.deletion import ParentDeletion
from backend.catalog.live_counts import LiveCounts
from backend.catalog.paging import read_pages
from backend.catalog.versions import MAX_EDIT_ATTEMPTS, check_version, too_many_conflicts
from backend.domain.errors import InstaChatError, Invalid
from backend.domain.folding import fold
from backend.domain.model import (
    Application,
    Parent,
    checked_name,
    checked_token,
    new_token,
    no_application,
)
from backend.ingest.application_log import ApplicationLog
from backend.ingest.counters import Counters
from backend.ingest.requests import identify_request, key_reused_error
from backend.storage.postgres import applications
from backend.storage.postgres.applications import (
    BEFORE_ALL,
    ApplicationPosition,
    StoredApplication,
    to_application,
)
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log

PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Applications:
    """The applications. Thread-safe. Unknown and removed ones raise NotFound."""

    log: Log
    database: Database
    counters: Counters
    live_counts: LiveCounts
    deletion: ParentDeletion
    application_log: ApplicationLog

    def create(self, name: str, *, key: str | None = None) -> Application:
        """Store a new application under a fresh random token.

        Without Redis nothing is stored. Its row comes first, then it is recorded in the log, and last comes
        its counter, which the first use creates otherwise: so a creation that fails leaves no counter. Raises
        Unconfirmed if it may be stored, and is not recorded. The same idempotency `key` with the same name
        gives the same answer for 24 hours, with another name KeyReused.
        """
        checked_name(name)
        token = new_token()
        shard = self.counters.shard(token)
        if key is not None:
            token, shard = self._place_for_key(key, name, token, shard)
        self.counters.read_log_end(shard)
        with self.database.begin() as tx:
            row = applications.insert_application_once(tx, token, name, shard)
        self.application_log.record(row)
        with suppress(InstaChatError):
            self.counters.create_counter(token, shard)
        return to_application(row, 0)

    def get(self, token: str) -> Application:
        """An application with its live count of chats."""
        checked_token(token)
        with self.database.connect() as connection:
            row = applications.get_application(connection, token)
        if row is None:
            raise no_application()
        return to_application(row, self.live_counts.of_application(row))

    def list(
        self, *, name: str | None = None, after_token: str | None = None, limit: int | None = None
    ) -> Iterator[Application]:
        """Applications in the order of `created_at`, read a page at a time.

        With `name` only those whose name contains it, both folded as a search folds them; Invalid if it
        folds to nothing. They begin after the application `after_token`, removed or not; NotFound if it
        never existed.
        """
        part = None if name is None else _folded_part(name)
        after = BEFORE_ALL
        if after_token is not None:
            with self.database.connect() as connection:
                position = applications.application_position(connection, after_token)
            if position is None:
                raise no_application()
            after = position
        pages = read_pages(
            self._read_page,
            lambda row: ApplicationPosition(row.created_at, row.id),
            after=after,
            limit=limit if part is None else None,
            page_size=PAGE_SIZE,
        )
        # Names are folded here: PostgreSQL's `lower` depends on the database's locale.
        found = ([row for row in page if part is None or part in fold(row.name)] for page in pages)
        counted = (application for rows in found for application in self._with_live_counts(rows))
        yield from islice(counted, limit)

    def rename(
        self, token: str, name: str, *, versions: Collection[int] | None = None
    ) -> Application:
        """Rename an application; with `versions` only if it has one of them (StaleVersion).

        Raises Unconfirmed if the new name may be stored, and is not recorded in the log.
        """
        checked_name(name)
        for _ in range(MAX_EDIT_ATTEMPTS):
            current = self.get(token)
            check_version(versions, current.version, "the application")
            with self.database.begin() as tx:
                row = applications.rename_application(tx, token, name, current.version)
            if row is not None:
                self.application_log.record(row)
                return to_application(row, current.chats_count)
        raise too_many_conflicts("the application")

    def rotate(self, token: str) -> Application:
        """Replace the token by which clients name an application; its original one stays its name inside.

        Every process refuses the former one as soon as it has read that: see `Tokens`. Raises Unconfirmed if
        the new token may be stored, and is not recorded in the log.
        """
        for _ in range(MAX_EDIT_ATTEMPTS):
            current = self.get(token)
            with self.database.begin() as tx:
                row = applications.rotate_token(tx, token, new_token(), current.version)
            if row is not None:
                self.application_log.record(row)
                return to_application(row, current.chats_count)
        raise too_many_conflicts("the application")

    def delete(
        self, token: str, *, cascade: bool = False, versions: Collection[int] | None = None
    ) -> None:
        """Delete an application without chats; HasChildren, changing nothing, if it has any.

        With `cascade` its chats are deleted with it: none can be reached when this returns, and their rows
        are deleted afterwards (`maintenance.cascade_delete`). With `versions` only if it has one of them
        when the deletion is requested (StaleVersion).
        """
        check_version(versions, self.get(token).version, "the application")
        self.deletion.delete(Parent(token), cascade=cascade)

    def _read_page(self, after: ApplicationPosition, size: int) -> Sequence[StoredApplication]:
        with self.database.connect() as connection:
            return applications.list_applications(connection, after, size)

    def _with_live_counts(self, rows: Sequence[StoredApplication]) -> Sequence[Application]:
        counts = self.live_counts.of_applications(rows)
        return [
            to_application(row, counts[row.token])
            for row in rows
            if row.token in counts  # else it was deleted meanwhile
        ]

    def _place_for_key(self, key: str, name: str, token: str, shard: int) -> tuple[str, int]:
        """The token that belongs to an idempotency key, and its shard: these, or an earlier attempt's.

        They are stored before anything else is done, so the next attempt continues a failed one.
        """
        stored_key, body_hash = identify_request("applications", key, name)
        value = f"{body_hash} {token}"
        if shard != self.counters.initial_shard(token):  # earlier programs know no other
            value += f" {shard}"
        found = self.log.reserve_idempotency_key(0, stored_key, value)
        earlier_hash, _, earlier = found.partition(" ")
        if earlier_hash != body_hash:
            raise key_reused_error()
        earlier_token, _, earlier_shard = earlier.partition(" ")
        return earlier_token, int(earlier_shard or self.counters.initial_shard(earlier_token))


def _folded_part(name: str) -> str:
    if part := fold(name):
        return part
    raise Invalid("the part of a name to look for is empty", "enter at least one character")
