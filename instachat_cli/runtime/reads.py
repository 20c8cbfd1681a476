"""What the commands that read print: by quick reads, and by the catalog what these leave to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from backend.bootstrap import EngineUrls, engine_urls, open_checked, open_log
from backend.catalog.quick_reads import ApplicationSettings, QuickReads
from backend.domain import serialization
from backend.domain.application_settings import format_rate
from backend.domain.model import Chat, Message
from backend.domain.times import format_age
from backend.settings import Settings
from backend.storage.postgres.quick_connection import QuickError
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from instachat_cli.console.output import Body
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import describe, loading, note_waiting
from instachat_cli.runtime.message_selection import MessageSelection

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from backend.search.searcher import Matches

PAGE_ROWS = 200  # of a list; longer ones are left to the catalog


class NewestMessages(NamedTuple):
    """The newest messages of a chat, the newest first."""

    bodies: Sequence[Body]
    continues: bool
    """Whether there are older ones."""
    total: int
    """The chat's live count."""


class Found(NamedTuple):
    """What a search finds."""

    bodies: Iterator[Body]
    incomplete: Callable[[], str | None]
    """Why something may be missing among what was read so far; None if nothing is."""


@contextmanager
def open_reads(settings: Settings) -> Iterator["Reads"]:
    """The reads of an installation, closed at the end."""
    with ExitStack() as stack:
        urls = stack.enter_context(engine_urls(settings))
        describe(settings, urls)
        log = stack.enter_context(closing(open_log(settings, urls)))
        workers = stack.enter_context(closing(Workers(urls.huey)))
        quick = stack.enter_context(closing(QuickReads(urls.database, log)))
        yield Reads(settings, urls, quick, log, workers, stack)


class Reads:
    """The reads of a command, on engines that are running. They raise as the catalog does.

    A body is None for what is accepted, and not stored yet.
    """

    def __init__(
        self,
        settings: Settings,
        urls: EngineUrls,
        quick: QuickReads,
        log: Log,
        workers: Workers,
        stack: ExitStack,
    ) -> None:
        """`stack` closes what is opened later."""
        self._settings = settings
        self._urls = urls
        self._quick = quick
        self._log = log
        self._workers = workers
        self._stack = stack

    def application(self, token: str) -> Body:
        """An application, with what an operator has set for it."""
        try:
            body, found = self._quick.application(token), self._quick.application_settings(token)
        except QuickError:
            core, original = self._core, self._original(token)
            body = serialization.application(core.catalog.applications.get(original))
            found = ApplicationSettings(
                core.retention.get(original), core.rate_limits.get(original)
            )
        retention = None if found.retention is None else format_age(found.retention)
        return body | {"retention": retention, "limit": format_rate(found.per_second)}

    def applications(
        self, *, name: str | None, after: str | None, limit: int | None
    ) -> Iterator[Body]:
        """Applications in the order of `created_at`; see `Applications.list`."""

        def whole() -> Iterator[Body]:
            original = None if after is None else self._original(after)
            found = self._core.catalog.applications.list(
                name=name, after_token=original, limit=limit
            )
            return map(serialization.application, found)

        def quick(size: int) -> Sequence[Body]:
            if name is not None:
                raise QuickError
            return self._quick.applications(after=after, limit=size)

        return _list(quick, whole, limit)

    def chat(self, token: str, number: int) -> Body | None:
        """A chat."""
        try:
            return self._quick.chat(token, number)
        except QuickError:
            found = self._core.catalog.chats.get(self._original(token), number)
            return serialization.chat(found) if isinstance(found, Chat) else None

    def chats(self, token: str, *, after: int, limit: int | None) -> Iterator[Body]:
        """An application's chats, by number."""

        def whole() -> Iterator[Body]:
            found = self._core.catalog.chats.list(self._original(token), after=after, limit=limit)
            return map(serialization.chat, found)

        def quick(size: int) -> Sequence[Body]:
            return self._quick.chats(token, after=after, limit=size)

        return _list(quick, whole, limit)

    def message(self, token: str, chat: int, number: int) -> Body | None:
        """A message."""
        try:
            return self._quick.message(token, chat, number)
        except QuickError:
            found = self._core.catalog.messages.get(self._original(token), chat, number)
            return serialization.message(found) if isinstance(found, Message) else None

    def messages(self, token: str, chat: int, selection: MessageSelection) -> Iterator[Body]:
        """The selected messages of a chat, by number."""
        within, last = selection.message_range(), selection.last

        def whole() -> Iterator[Body]:
            found = selection.read(self._core.catalog.messages, self._original(token), chat)
            return map(serialization.message, found)

        def quick(size: int) -> Sequence[Body]:
            if selection.around is not None or within.has_times:
                raise QuickError
            bounds = {"after": within.after, "before": within.before}
            if last is None:
                return self._quick.messages(token, chat, **bounds, limit=size)
            return self._quick.newest_messages(token, chat, **bounds, limit=size)[::-1]

        return _list(quick, whole, last or selection.limit)

    def newest_messages(self, token: str, chat: int, count: int) -> NewestMessages:
        """The newest messages of a chat."""
        try:
            return NewestMessages(*self._quick.newest_page(token, chat, limit=count))
        except QuickError:
            page = self._core.catalog.messages.page(
                self._original(token), chat, limit=count, newest_first=True
            )
            bodies = list(map(serialization.message, page.items))
            return NewestMessages(bodies, page.next is not None, page.total)

    def search(
        self, token: str, chat: int, keyword: str, *, after: int, limit: int | None
    ) -> Found:
        """A chat's messages that contain the keyword, by number, with the places."""
        found: list[Matches] = []

        def whole() -> Iterator[Body]:
            matches = self._core.catalog.messages.search(
                self._original(token), chat, keyword, after=after, limit=limit
            )
            found.append(matches)
            return map(serialization.match, matches)

        def quick(size: int) -> Sequence[Body]:
            if self._settings.elasticsearch_url is not None:
                raise QuickError
            return self._quick.search(token, chat, keyword, after=after, limit=size)

        bodies = _list(quick, whole, limit)
        return Found(bodies, lambda: found[0].incomplete if found else None)

    def search_application(self, token: str, keyword: str, *, limit: int | None) -> Iterator[Body]:
        """An application's messages that contain the keyword, newest first, with the places."""
        found = self._core.catalog.messages.search_whole_application(
            self._original(token), keyword, limit=limit
        )
        return map(serialization.application_match, found)

    def note_unstored(self, token: str) -> None:
        """Write a note if the application's accepted events wait."""
        note_waiting(self._workers, self._log, lambda: self._shard(token))

    def _shard(self, token: str) -> int:
        if "_core" not in self.__dict__:
            with suppress(QuickError):
                return self._quick.shard(token)
        return self._core.counters.shard(self._original(token))  # which knows one that has moved

    def _original(self, token: str) -> str:
        return self._core.tokens.original(token)

    @cached_property
    def _core(self) -> "Backend":
        """The backend, opened by the first read that is not quick."""
        self._quick.close()  # a role may have only one connection
        with loading():
            core = self._stack.enter_context(open_checked(self._settings, self._urls))
        stderr.detail("this read needs the whole backend")
        return core


def _list(
    quick: Callable[[int], Sequence[Body]], whole: Callable[[], Iterator[Body]], limit: int | None
) -> Iterator[Body]:
    """At most `limit` bodies: by `quick(size)` if they are no more than a page, or else all by the catalog.

    The catalog does not go on where a quick read has ended: a token could be replaced in between.
    """
    size = PAGE_ROWS if limit is None else min(limit, PAGE_ROWS)
    try:
        page = quick(size)
        is_whole = len(page) < size or size == limit
    except QuickError:
        is_whole = False
    yield from page if is_whole else whole()
