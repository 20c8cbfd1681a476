"""The query of a list of messages: its parameters, and which of them make sense together."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from backend.api.parameters import (
    DEFAULT_PAGE_SIZE,
    After,
    Around,
    Before,
    Keyword,
    Limit,
    Numbers,
    Order,
    Since,
    Until,
)
from backend.catalog.messages import Messages
from backend.domain.errors import Invalid
from backend.domain.model import MAX_NUMBER, Message, MessageRange, NumberedPage

# What can be combined with each of these. Without them, all other parameters can be combined.
_COMPANIONS = {
    "keyword": ("limit", "after"),
    "numbers": ("order",),
    "around": ("limit", "order"),
}


class MessageQuery(BaseModel):
    """Which messages of a chat to list."""

    model_config = ConfigDict(frozen=True)

    limit: Limit = DEFAULT_PAGE_SIZE
    after: After = 0
    before: Before = None
    since: Since = None
    until: Until = None
    around: Around = None
    numbers: Numbers = None
    order: Order = "asc"
    keyword: Keyword = None

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        for name, companions in _COMPANIONS.items():
            if getattr(self, name) is None:
                continue
            for other in sorted(self.model_fields_set - {name, *companions}):
                allowed = " and ".join(f"`{companion}`" for companion in companions)
                raise ValueError(
                    f"`{other}` cannot be combined with `{name}`, which takes {allowed} only"
                )
        try:
            self.message_range()
        except Invalid as error:
            raise ValueError(error.message) from None
        return self

    def message_range(self) -> MessageRange:
        """The range of messages."""
        return MessageRange(self.after, self.before or MAX_NUMBER + 1, self.since, self.until)

    def read(self, messages: Messages, token: str, chat: int) -> NumberedPage[Message]:
        """Read the page; not for a search."""
        newest_first = self.order == "desc"
        if self.numbers is not None:
            numbers = [int(number) for number in self.numbers.split(",")]
            return messages.page_of_numbers(token, chat, numbers, newest_first=newest_first)
        if self.around is not None:
            return messages.page_around(
                token, chat, self.around, limit=self.limit, newest_first=newest_first
            )
        return messages.page(
            token, chat, self.message_range(), limit=self.limit, newest_first=newest_first
        )
