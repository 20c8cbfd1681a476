"""The bodies of requests and responses, for validation and OpenAPI. The limits come from `domain.model`."""

from datetime import datetime
from typing import Generic, TypeVar

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from backend.domain.model import MAX_BATCH, MAX_NAME, MAX_TEXT, NewMessage

T = TypeVar("T")


class BaseSchema(BaseModel):
    """A body. Unknown members are ignored."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


# -- requests --------------------------------------------------------------------------------------


# For OpenAPI only: `domain.model` makes the check, with a better message than a pattern's.
NO_NUL: JsonDict = {"pattern": "^[^\\u0000]*$"}


class Name(BaseSchema):
    """The name of an application."""

    name: str = Field(
        min_length=1, max_length=MAX_NAME, examples=["Support desk"], json_schema_extra=NO_NUL
    )


class ApplicationBody(BaseSchema):
    """An application to create, or the new name of an application."""

    application: Name


class Text(BaseSchema):
    """What a client can change of a message: its text."""

    text: str = Field(
        min_length=1, max_length=MAX_TEXT, examples=["Good morning"], json_schema_extra=NO_NUL
    )


class MessageInput(Text):
    """What a client writes of a new message."""

    def new_message(self) -> NewMessage:
        """The message to create."""
        return self.text


class MessageBody(BaseSchema):
    """A message to create."""

    message: MessageInput


class FastMessageInput(Struct, forbid_unknown_fields=True):
    """As `MessageInput`, decoded in a tenth of the time. Other members need the ordinary route."""

    text: str

    def new_message(self) -> NewMessage:
        """The message to create."""
        return self.text


class FastMessageBody(Struct, forbid_unknown_fields=True):
    """As `MessageBody`, for the fast path."""

    message: FastMessageInput


class MessagesBody(BaseSchema):
    """Messages to create. They get consecutive numbers in this order."""

    messages: list[MessageInput] = Field(min_length=1, max_length=MAX_BATCH)


class TextBody(BaseSchema):
    """The changes to make to a message."""

    message: Text


# -- responses --------------------------------------------------------------------------------------


class Application(BaseSchema):
    """An application with its live count of chats."""

    token: str = Field(examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"])
    name: str = Field(examples=["Support desk"])
    chats_count: int = Field(examples=[3])
    created_at: datetime
    updated_at: datetime


class Chat(BaseSchema):
    """A chat with its live count of messages."""

    number: int = Field(examples=[7])
    messages_count: int = Field(examples=[12])
    created_at: datetime
    updated_at: datetime


class Message(BaseSchema):
    """A message."""

    number: int = Field(examples=[12])
    text: str = Field(examples=["Good morning"])
    created_at: datetime
    updated_at: datetime


class Found(Message):
    """A message that contains the keyword of a search."""

    highlight: list[tuple[int, int]] = Field(
        description="the places of the keyword: [start, end] in code points of the text",
        examples=[[[5, 12]]],
    )


class Number(BaseSchema):
    """The number of a new chat or message."""

    number: int = Field(examples=[12])


class Numbers(BaseSchema):
    """The numbers of the messages of a batch: `first` to `last`."""

    first: int = Field(examples=[13])
    last: int = Field(examples=[112])


class Pending(BaseSchema):
    """A chat or message that is accepted and not stored yet."""

    number: int = Field(examples=[12])
    status: str = Field(examples=["accepted"], pattern="^accepted$")


class Page(BaseSchema, Generic[T]):
    """A page of a list, ordered by number. Pass `next` as `after` to get the following page.

    With `order=desc`, pass `next` as `before`.
    """

    items: list[T]
    next: int | None = Field(examples=[50])


class CountedPage(Page[T], Generic[T]):
    """A page of all chats of an application, or of all messages of a chat; `total` is the live count."""

    total: int = Field(examples=[1204])


class SearchPage(Page[Found]):
    """A page of the messages that contain a keyword."""

    # `why` has a default, but is not in every response.
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    complete: bool = Field(
        description="whether these are all that the page should have", examples=[True]
    )
    why: str = Field(
        default="",
        description="only if `complete` is false: why messages may be missing, and which",
        examples=["the search index does not answer; messages after number 100000 may be missing"],
    )


class FoundInApplication(Found):
    """A message that contains the keyword of a search over all chats of an application."""

    chat: int = Field(description="the number of the message's chat", examples=[7])


class ApplicationSearchPage(BaseSchema):
    """A page of the messages of an application that contain a keyword, newest first.

    Pass `next` as `cursor` to get the following page.
    """

    # `why` has a default, but is not in every response.
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    items: list[FoundInApplication]
    next: str | None = Field(examples=["1764000000000000.7.12"])
    complete: bool = Field(
        description="whether these are all that the page should have", examples=[True]
    )
    why: str = Field(
        default="", description="only if `complete` is false: why messages may be missing"
    )


class Applications(BaseSchema):
    """A page of the applications, ordered by creation. Pass `next` as `after` to get the following page."""

    items: list[Application]
    next: str | None = Field(examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"])


class Health(BaseSchema):
    """The state of the server, and the engines, and shards of Redis, that do not respond."""

    status: str = Field(examples=["ready"])
    away: list[str] = Field(examples=[[]])


class ProblemBody(BaseSchema):
    """An error, as RFC 9457 defines it."""

    type: str = Field(examples=["urn:problem-type:instachat:invalid"])
    title: str = Field(examples=["Invalid"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["The text of a message is empty: it needs 1 to 10,000 characters."]
    )
