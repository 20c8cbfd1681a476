"""Applications: creating, reading, renaming and deleting them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.catalog.deletion import ParentDeletion
from backend.catalog.paging import read_pages
from backend.catalog.versions import MAX_EDIT_ATTEMPTS, check_version, too_many_conflicts
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
from backend.storage.postgres.applications import StoredApplication, to_application
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log

PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class Applications:
    """The applications. Thread-safe. Unknown and removed ones raise NotFound."""

    log: Log
    database: Database
    counters: Counters
    deletion: ParentDeletion
    application_log: ApplicationLog

    def create(self, name: str, *, key: str | None = None) -> Application:
        """Store a new application under a fresh random token.

        Its counter comes first: without Redis nothing is stored, and a counter without an application does
        no harm, since nobody knows its token. Last, it is recorded in the log. The same idempotency `key`
        with the same name gives the same answer for 24 hours, with another name KeyReused.
        """
        checked_name(name)
        token = new_token()
        if key is not None:
            token = self._token_for_key(key, name, token)
        self.counters.create_counter(token)
        with self.database.begin() as tx:
            row = applications.insert_application_once(tx, token, name)
        self.application_log.record(row)
        return to_application(row, 0)

    def get(self, token: str) -> Application:
        """An application with its live count of chats."""
        checked_token(token)
        with self.database.connect() as connection:
            row = applications.get_application(connection, token)
        if row is None:
            raise no_application()
        return self._with_live_count(row)

    def list(
        self, *, after_token: str | None = None, limit: int | None = None
    ) -> Iterator[Application]:
        """All applications in the order of their creation, read a page at a time.

        They begin after the application `after_token`, removed or not; NotFound if it never existed.
        """
        after = 0
        if after_token is not None:
            with self.database.connect() as connection:
                position = applications.application_position(connection, after_token)
            if position is None:
                raise no_application()
            after = position
        pages = read_pages(
            self._read_page, lambda row: row.id, after=after, limit=limit, page_size=PAGE_SIZE
        )
        for page in pages:
            yield from map(self._with_live_count, page)

    def rename(self, token: str, name: str, *, version: int | None = None) -> Application:
        """Rename an application; with a `version` only if it still has that version (StaleVersion).

        Raises Unconfirmed if the new name is stored, but not recorded in the log.
        """
        checked_name(name)
        for _ in range(MAX_EDIT_ATTEMPTS):
            current = self.get(token)
            check_version(version, current.version, "the application")
            with self.database.begin() as tx:
                row = applications.rename_application(tx, token, name, current.version)
            if row is not None:
                self.application_log.record(row)
                return to_application(row, current.chats_count)
        raise too_many_conflicts("the application")

    def delete(self, token: str, *, cascade: bool = False, version: int | None = None) -> None:
        """Delete an application without chats; HasChildren, changing nothing, if it has any.

        With `cascade` its chats are deleted with it: none can be reached when this returns, and their rows
        are deleted afterwards (`maintenance.cascade_delete`). With a `version` only if it has that version
        when the deletion is requested (StaleVersion).
        """
        check_version(version, self.get(token).version, "the application")
        self.deletion.delete(Parent(token), cascade=cascade)

    def _read_page(self, after: int, size: int) -> Sequence[StoredApplication]:
        with self.database.connect() as connection:
            return applications.list_applications(connection, after, size)

    def _with_live_count(self, row: StoredApplication) -> Application:
        issued = self.counters.read_issued([Parent(row.token)])[0]
        return to_application(row, issued - row.chats_removed)

    def _token_for_key(self, key: str, name: str, token: str) -> str:
        """The token that belongs to an idempotency key: this one, or an earlier attempt's.

        It is stored before anything else is done, so the next attempt continues a failed one.
        """
        stored_key, body_hash = identify_request("applications", key, name)
        found = self.log.reserve_idempotency_key(0, stored_key, f"{body_hash} {token}")
        earlier_hash, _, earlier = found.partition(" ")
        if earlier_hash != body_hash:
            raise key_reused_error()
        return earlier
