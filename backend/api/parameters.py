"""What a request asks beside its body: `If-Match`, `Idempotency-Key`, `?wait=`, `?cascade=`."""

import re
from typing import Annotated, Literal

from fastapi import Header, Query

from backend.ingest.requests import MAX_KEY_LENGTH

IfMatch = Annotated[
    str | None,
    Header(
        description="only if the ETag still is this one",
        examples=['"1764000000000000"'],
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="for 24 hours the same key and body give the same answer and create nothing new",
        examples=["5f0c7c1e-5a55-4a3b-9d0a-1c1f0c3a7a10"],
    ),
]
Wait = Annotated[
    Literal["stored", "searchable"] | None,
    Query(description="answer 201 once that is so, or 202 after 5 seconds"),
]
Cascade = Annotated[
    bool,
    Query(description="all that is in it goes, too: 202, and the rows are dropped afterwards"),
]
_ETAG_PATTERN = re.compile(r'"([0-9]{1,18})"\Z')
_NO_VERSION = -1  # no version: what is no tag of ours matches nothing


def etag(version: int) -> str:
    """The entity tag of a version."""
    return f'"{version}"'


def parse_if_match(if_match: str | None) -> int | None:
    """The version that a request asks for; None where any will do."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG_PATTERN.match(if_match.strip())
    return int(found.group(1)) if found else _NO_VERSION
