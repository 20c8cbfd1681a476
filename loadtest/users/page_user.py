"""A user that reads the newest pages of chats, and records them for the audit.

The users of a process share what they know of a chat, as if each had seen it before: how much of it is
stored, and the newest page with its ETag. Nothing may be deleted in these chats. Texts of the preload are not
recorded, because the ledger does not have them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.adapter.answers import ListedItem
from loadtest.adapter.operations import Operation
from loadtest.corpus.texts import digest
from loadtest.recording import READER, RecordedPage
from loadtest.users.chat_user import ChatUser

PAGE_SIZE = 50
OLDER_SHARE = 0.2  # of the pages; the others are the newest one
CONDITIONAL_SHARE = 0.5  # of the requests for a newest page that has been read before
KNOWN_TEXTS = 4 * PAGE_SIZE  # of a chat; older ones are recorded again when they are shown again


@dataclass
class _KnownChat:
    """What the users of this process know of a chat."""

    stored: int
    """The highest number that the server has shown."""
    tag: str = ""
    """The ETag of `page`; empty before the first one was read."""
    page: RecordedPage | None = None
    texts: dict[int, str] = field(default_factory=dict)
    """The newest texts that were shown, by number."""

    def forget_old_texts(self) -> None:
        """Keep the newest ones, if there are many more."""
        if len(self.texts) > 2 * KNOWN_TEXTS:
            for number in sorted(self.texts)[:-KNOWN_TEXTS]:
                del self.texts[number]


_known_chats: dict[tuple[str, int], _KnownChat] = {}
"""By token and number."""


class PageUser(ChatUser):
    """Reads the newest pages."""

    abstract = True

    def list_newest(self) -> None:
        """List the newest messages of a chat, or those before them."""
        application, chat = self._random_chat_to_read()
        known = self._known(application, chat)
        is_older, is_conditional = (
            self.rng.random() < share for share in (OLDER_SHARE, CONDITIONAL_SHARE)
        )
        oldest_of_newest = known.stored - PAGE_SIZE + 1
        adapter = self._coordinator.adapter
        if is_older and oldest_of_newest > 1 and Operation.LIST_BEFORE in adapter:
            self._read_page(application, chat, known, before=oldest_of_newest)
        else:
            has_tag = is_conditional and adapter.has_etags
            self._read_page(application, chat, known, tag=known.tag if has_tag else "")

    def _read_page(
        self, application: int, chat: int, known: _KnownChat, *, before: int = 0, tag: str = ""
    ) -> None:
        """Read and record a page; with `before` or, if it has not changed, without a body."""
        stored, tagged = known.stored, known.page  # answers to other users change them meanwhile
        operation = Operation.LIST_BEFORE if before else Operation.LIST_NEWEST
        answer = self._request_in(
            *(application, chat, operation), tag=tag, limit=PAGE_SIZE, before=before
        )
        recorder = self._coordinator.recorder
        if answer.status == 304 and tagged:
            recorder.record_page(tagged._replace(known=stored, not_modified=True))
        elif answer.done:
            page = RecordedPage.of(
                application,
                chat,
                [item.number for item in answer.items],
                limit=PAGE_SIZE,
                known=before - 1 if before else stored,
                before=before,
            )
            recorder.record_page(page)
            if self._coordinator.fixtures.preloaded_messages(application, chat) is None:
                self._record_texts(application, chat, known, answer.items)
            known.stored = max(known.stored, page.newest)
            if not before and answer.tag:
                known.tag, known.page = answer.tag, page

    def _record_texts(
        self, application: int, chat: int, known: _KnownChat, items: Sequence[ListedItem]
    ) -> None:
        """Record the texts of a page, except for those that were shown before."""
        for number, text in items:
            if known.texts.get(number) != text:
                known.texts[number] = text
                self._coordinator.recorder.record_shown(
                    application, chat, READER, number, digest(text)
                )
        known.forget_old_texts()

    def _known(self, application: int, chat: int) -> _KnownChat:
        # They are stored before the load begins.
        preloaded = self._coordinator.fixtures.preloaded_messages(application, chat)
        first = self.layout.messages_per_chat if preloaded is None else preloaded
        return _known_chats.setdefault((self._token(application), chat), _KnownChat(first))
