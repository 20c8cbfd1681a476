"""What requests carry beside their body: the path, the query, `If-Match` and `Idempotency-Key`."""

import re
import time
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from backend.api.cursor import CURSOR_PATTERN, parse_cursor
from backend.api.schemas import NO_NUL
from backend.domain.errors import Invalid
from backend.domain.folding import MAX_KEYWORD
from backend.domain.model import MAX_NUMBER
from backend.domain.times import parse_rfc3339
from backend.ingest.requests import MAX_KEY_LENGTH

PREFIX = "/api/v1"
APPLICATIONS = PREFIX + "/applications"
APPLICATION = PREFIX + "/application"
"""The path of the application whose token is in a header; see server/bearer.py."""
MAX_PAGE_SIZE = 200
DEFAULT_PAGE_SIZE = 50
MAX_SHOWN_NAME = 40  # of an unknown parameter, in code points
NUMBER_PATTERN = "[1-9][0-9]{0,14}"
"""A number in at most 15 plain digits, so below MAX_NUMBER."""
ARRIVED_AT = "arrived_at"
"""The key of a request's state for its arrival, which the fast path sets when it passes a request on."""
_NUMBERS_PATTERN = f"^{NUMBER_PATTERN}(,{NUMBER_PATTERN}){{0,{MAX_PAGE_SIZE - 1}}}$"


def _parse_digits(value: Any) -> Any:
    """A number from plain digits: no sign, space, underscore or fraction. Raises ValueError."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        return int(value)
    raise ValueError("not a number in plain digits")


def _check_numbers(value: str | None) -> str | None:
    """Numbers in plain digits, separated by commas. Raises ValueError."""
    if value is not None and not re.fullmatch(_NUMBERS_PATTERN, value):
        raise ValueError(f"not 1 to {MAX_PAGE_SIZE} numbers such as 1,5,9")
    return value


def _check_cursor(value: str | None) -> str | None:
    """A cursor that `make_cursor` may have made. Raises ValueError."""
    if value is not None:
        parse_cursor(value)
    return value


def _parse_time(value: Any) -> Any:
    """A time as RFC 3339. Raises ValueError."""
    try:
        return parse_rfc3339(value)
    except Invalid as error:
        raise ValueError(error.message) from None


def _number_between(
    lowest: int, highest: int, example: int
) -> tuple[BeforeValidator, Any, WithJsonSchema]:
    """What an `Annotated` integer needs; a plain tuple, because it is unpacked there."""
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
    Query(description="the largest number of items to return"),
]
_keyword = Query(
    min_length=1,
    max_length=MAX_KEYWORD,
    description="return only messages whose text contains this, each with `highlight`",
    examples=["morning"],
    json_schema_extra=NO_NUL,
)
Keyword = Annotated[str | None, _keyword]
RequiredKeyword = Annotated[str, _keyword]
Cursor = Annotated[
    str | None,  # a tuple would be a parameter that is repeated
    AfterValidator(_check_cursor),
    WithJsonSchema(
        {"type": "string", "pattern": CURSOR_PATTERN, "examples": ["1764000000000000.7.12"]}
    ),
    Query(description="`next` of the previous page, as it is: what it means may change"),
]
After = Annotated[
    int,
    *_number_between(0, MAX_NUMBER, 50),
    Query(description="return only items with a greater number"),
]
Before = Annotated[
    int | None,
    *_number_between(1, MAX_NUMBER, 100),
    Query(description="return only items with a smaller number"),
]
Around = Annotated[
    int | None,
    *_number_between(1, MAX_NUMBER, 100),
    Query(description="return the messages around this number: as many before it as after it"),
]
Numbers = Annotated[
    str | None,  # a tuple would be a parameter that is repeated
    AfterValidator(_check_numbers),
    WithJsonSchema({"type": "string", "pattern": _NUMBERS_PATTERN, "examples": ["1,5,9"]}),
    Query(description=f"return the messages with these numbers, at most {MAX_PAGE_SIZE}"),
]
Since = Annotated[
    datetime | None,
    BeforeValidator(_parse_time),
    Query(
        description="return only messages created at this time or later (RFC 3339; write + as %2B)",
        examples=["2026-01-31T23:59:59Z"],
    ),
]
Until = Annotated[
    datetime | None,
    BeforeValidator(_parse_time),
    Query(
        description="return only messages created before this time (RFC 3339; write + as %2B)",
        examples=["2026-01-31T23:59:59Z"],
    ),
]
Order = Annotated[
    Literal["asc", "desc"],
    Query(description="by number, ascending, or descending from the newest"),
]
AfterToken = Annotated[
    str | None,
    Query(
        max_length=64,
        description="return only applications created after the one with this token",
        examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"],
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        description="answer 304 without a body if the ETag is still one of these",
        examples=['"1764000000000000"'],
    ),
]
AfterNumber = Annotated[
    int | None,
    *_number_between(0, MAX_NUMBER, 12),
    Query(description="begin after this number; by default after the newest stored message"),
]
LastEventId = Annotated[
    int | None,
    *_number_between(0, MAX_NUMBER, 12),
    Header(
        alias="Last-Event-ID",
        description="resume after this number, as clients of event streams do by themselves",
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        description="make the change only if the ETag is still this one",
        examples=['"1764000000000000"'],
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="for 24 hours, the same key and body get the same response and create nothing new",
        examples=["5f0c7c1e-5a55-4a3b-9d0a-1c1f0c3a7a10"],
    ),
]
Wait = Annotated[
    Literal["stored", "searchable"] | None,
    Query(
        description="wait until the creation is stored or searchable: 201, or 202 after 5 seconds"
    ),
]
Cascade = Annotated[
    bool,
    Query(description="delete everything inside, too: 202, and the rows are removed afterwards"),
]


async def _arrival(request: Request) -> float:
    return getattr(request.state, ARRIVED_AT, None) or time.perf_counter()


ArrivedAt = Annotated[float, Depends(_arrival)]
"""When the request arrived, by `time.perf_counter`: also one that the fast path could not answer."""


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise RequestValidationError if the query has a parameter that the route does not have."""
    if not request.url.query:
        return
    known = {
        parameter.alias
        for parameter in get_flat_params(request.scope["route"].dependant)
        if not isinstance(parameter.field_info, (params.Path, params.Header))
    }
    takes = f"takes {', '.join(sorted(known))}" if known else "takes none"
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        raise RequestValidationError(
            [
                {
                    "loc": ("query", name[:MAX_SHOWN_NAME]),
                    "msg": f"unknown parameter; this route {takes}",
                }
                for name in unknown
            ]
        )
