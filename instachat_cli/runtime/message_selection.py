"""Which of a chat's messages `messages list` prints: what the options mean, alone and together."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from backend.domain.errors import Invalid
from backend.domain.model import MAX_NUMBER, Message, MessageRange
from instachat_cli.console.output import Body
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.catalog.messages import Messages
    from instachat_cli.runtime.reads import Reads

NEWEST_ON_TERMINAL = 50  # without an option that says which messages are wanted
AROUND_LIMIT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSelection:
    """The options of `messages list`; None: not given. Raises Invalid if they make no sense together."""

    after: int | None = None
    before: int | None = None
    around: int | None = None
    last: int | None = None
    limit: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Check which options are given together."""
        if self.around is not None:
            self._refuse_with("--around", ("after", "before", "last", "since", "until"))
        if self.last is not None:
            self._refuse_with("--last", ("limit",))
        self.message_range()

    def check_can_follow(self) -> None:
        """Raise Invalid unless what comes later can follow these messages."""
        for name in ("before", "around", "until", "limit"):
            if getattr(self, name) is not None:
                raise Invalid(f"--follow cannot be combined with --{name}")

    def message_range(self) -> MessageRange:
        """The range in which the messages are."""
        return MessageRange(self.after or 0, self.before or MAX_NUMBER + 1, self.since, self.until)

    def print(
        self, reads: "Reads", token: str, chat: int, show: Callable[[Iterator[Body]], None]
    ) -> None:
        """Pass the messages to `show`, in the order of their numbers.

        On a terminal, without any option, these are the newest ones, and a note says so.
        """
        if self == MessageSelection() and sys.stdout.isatty():
            page = reads.newest_messages(token, chat, NEWEST_ON_TERMINAL)
            show(reversed(page.bodies))
            if page.continues:
                stderr.note(
                    f"these are the newest {len(page.bodies)} of {page.total:,} messages; `--last N` lists"
                    " more of them, `--after 0` lists all"
                )
        else:
            show(reads.messages(token, chat, self))

    def read(self, messages: "Messages", token: str, chat: int) -> Iterator[Message]:
        """The messages in the order of their numbers, read as they are needed."""
        within = self.message_range()
        if self.around is not None:
            limit = self.limit or AROUND_LIMIT
            return iter(messages.page_around(token, chat, self.around, limit=limit).items)
        if self.last is not None:
            return messages.newest(token, chat, within, count=self.last)
        return messages.list(token, chat, within, limit=self.limit)

    def _refuse_with(self, option: str, others: Sequence[str]) -> None:
        for other in others:
            if getattr(self, other) is not None:
                raise Invalid(f"{option} cannot be combined with --{other}")
