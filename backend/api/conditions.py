"""`ETag` and `If-Match`: an entity tag is a version in quotes."""

import re
from typing import Annotated

from fastapi import Header

from backend.errors import Invalid

IfMatch = Annotated[
    str | None,
    Header(description="only if the entity tag still is this one", examples=['"1764000000000000"']),
]
_TAG = re.compile(r'"([0-9]{1,19})"\Z')
NEVER = -1  # no version: a tag that was never given matches nothing


def etag(version: int) -> str:
    """The entity tag of a version."""
    return f'"{version}"'


def version_of(if_match: str | None) -> int | None:
    """The version that a request asks for; None where it asks for none in particular."""
    if if_match is None or if_match.strip() == "*":
        return None
    if found := _TAG.match(if_match.strip()):
        return int(found.group(1))
    if '"' in if_match:
        return NEVER
    raise Invalid('If-Match is an entity tag in quotes, as ETag gave it, or *: If-Match: "12"')
