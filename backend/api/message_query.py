"""The query of a list of messages: its parameters, and which of them make sense together."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from backend.api.parameters import DEFAULT_PAGE_SIZE, After, Before, Keyword, Limit, Order
from backend.domain.errors import Invalid
from backend.domain.model import MAX_NUMBER, MessageRange


class MessageQuery(BaseModel):
    """Which messages of a chat to list. Other parameters are ignored."""

    model_config = ConfigDict(frozen=True)

    limit: Limit = DEFAULT_PAGE_SIZE
    after: After = 0
    before: Before = None
    order: Order = "asc"
    keyword: Keyword = None

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.keyword is not None:
            for name in sorted(self.model_fields_set - {"keyword", "limit", "after"}):
                raise ValueError(
                    f"`{name}` cannot be combined with `keyword`: a search takes `limit` and `after`"
                )
        try:
            self.message_range()
        except Invalid as error:
            raise ValueError(error.message) from None
        return self

    def message_range(self) -> MessageRange:
        """The range of messages."""
        return MessageRange(self.after, MAX_NUMBER + 1 if self.before is None else self.before)

    @property
    def newest_first(self) -> bool:
        """Whether the numbers descend."""
        return self.order == "desc"
