"""What bodies and parameters look like: validation and OpenAPI come from here, limits from `model`."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from backend.domain.folding import MAX_KEYWORD
from backend.domain.model import MAX_BATCH, MAX_NAME, MAX_NUMBER, MAX_TEXT

PREFIX = "/api/v1"
MAX_PAGE_SIZE = 200  # in one page of a list
DEFAULT_PAGE_SIZE = 50

T = TypeVar("T")


class BaseSchema(BaseModel):
    """A body. Members that it does not know are ignored."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


# -- what comes in ---------------------------------------------------------------------------------


# OpenAPI is told what `model` checks in a better way than a pattern could.
_NO_NUL: JsonDict = {"pattern": "^[^\\u0000]*$"}


class Name(BaseSchema):
    """What an application is called."""

    name: str = Field(
        min_length=1, max_length=MAX_NAME, examples=["Support desk"], json_schema_extra=_NO_NUL
    )


class ApplicationBody(BaseSchema):
    """An application to create, or its new name."""

    application: Name


class Text(BaseSchema):
    """What a message says."""

    text: str = Field(
        min_length=1, max_length=MAX_TEXT, examples=["Good morning"], json_schema_extra=_NO_NUL
    )


class MessageBody(BaseSchema):
    """A message to create, or its new text."""

    message: Text


class MessagesBody(BaseSchema):
    """Messages to create; they get consecutive numbers, in this order."""

    messages: list[Text] = Field(min_length=1, max_length=MAX_BATCH)


# -- what goes out ---------------------------------------------------------------------------------


class Application(BaseSchema):
    """An application, with its live count of chats."""

    token: str = Field(examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"])
    name: str = Field(examples=["Support desk"])
    chats_count: int = Field(examples=[3])
    created_at: datetime
    updated_at: datetime


class Chat(BaseSchema):
    """A chat, with its live count of messages."""

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
    """A message that a search found."""

    highlight: list[tuple[int, int]] = Field(
        description="where the keyword is: [start, end], in code points of the text",
        examples=[[[5, 12]]],
    )


class Number(BaseSchema):
    """The number that a creation was given."""

    number: int = Field(examples=[12])


class Numbers(BaseSchema):
    """The numbers that many creations at once were given."""

    first: int = Field(examples=[13])
    last: int = Field(examples=[112])


class Pending(BaseSchema):
    """What is accepted, and not stored yet."""

    number: int = Field(examples=[12])
    status: str = Field(examples=["accepted"], pattern="^accepted$")


class Page(BaseSchema, Generic[T]):
    """A part of a list, by number; `next` goes into `after` for the part behind it."""

    items: list[T]
    next: int | None = Field(examples=[50])


class Applications(BaseSchema):
    """A part of the list of applications, in the order of creation; `next` goes into `after`."""

    items: list[Application]
    next: str | None = Field(examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"])


class Health(BaseSchema):
    """Which engines are away."""

    status: str = Field(examples=["ready"])
    away: list[str] = Field(examples=[[]])


class ProblemBody(BaseSchema):
    """RFC 9457: what went wrong."""

    type: str = Field(examples=["urn:problem-type:instachat:invalid"])
    title: str = Field(examples=["Invalid"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["The text of a message is empty: it needs 1 to 10,000 characters."]
    )


# -- parameters ------------------------------------------------------------------------------------


def _parse_digits(value: Any) -> Any:
    """A number is written in plain digits: no sign, no space, no underscore, no fraction."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        return int(value)
    raise ValueError("not a number in plain digits")


def _number_between(
    lowest: int, highest: int, example: int
) -> tuple[BeforeValidator, Any, WithJsonSchema]:
    return (
        BeforeValidator(_parse_digits),
        Field(ge=lowest, le=highest),
        WithJsonSchema(
            {"type": "integer", "minimum": lowest, "maximum": highest, "examples": [example]}
        ),
    )


Token = Annotated[
    str,
    Path(description="the application's token", examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"]),
]
ChatNumber = Annotated[
    int, *_number_between(1, MAX_NUMBER, 1), Path(description="the chat's number")
]
MessageNumber = Annotated[
    int, *_number_between(1, MAX_NUMBER, 12), Path(description="the message's number")
]
Limit = Annotated[
    int,
    *_number_between(1, MAX_PAGE_SIZE, 20),
    Query(description="how many of them at most"),
]
Keyword = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_KEYWORD,
        description="only those whose text contains it; each then has `highlight`",
        examples=["morning"],
        json_schema_extra=_NO_NUL,
    ),
]
After = Annotated[
    int,
    *_number_between(0, MAX_NUMBER, 50),
    Query(description="only what is behind this number"),
]
