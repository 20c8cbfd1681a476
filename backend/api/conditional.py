"""Entity tags: the `ETag` of what was read, compared with `If-Match` and `If-None-Match` (RFC 9110, 13.1)."""

import re
from collections.abc import Collection
from hashlib import blake2b

import msgspec
from fastapi import Response

from backend.domain.serialization import JsonObject

_DIGEST_BYTES = 12
_TAGS = re.compile(r'(?:W/)?"[^"]*"')
_match_version = re.compile(r'"([0-9]{1,18})(?:-[0-9]{1,16})?"').fullmatch
_OPAQUE_TAGS = re.compile(r'(?:W/)?("[^"]*")')
encode_json = msgspec.json.encode
"""Encodes every body of a successful response: the tag of a list is made of these bytes."""


def message_etag(version: int) -> str:
    """The entity tag of a message of this version."""
    return f'"{version}"'


def application_etag(version: int, chats_count: int) -> str:
    """The entity tag of an application: its version, and the live count, which changes without it."""
    return f'"{version}-{chats_count}"'


def body_etag(body: bytes) -> str:
    """The entity tag of what has no version (a chat, a list): a digest of the encoded body.

    It takes 10 µs for 10 kB.
    """
    return f'"{blake2b(body, digest_size=_DIGEST_BYTES).hexdigest()}"'


def parse_if_match(if_match: str | None) -> Collection[int] | None:
    """The versions, one of which `If-Match` requires; None if it accepts any.

    Tags are compared strongly: a weak one matches nothing, and neither does a foreign one.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    matches = map(_match_version, _TAGS.findall(if_match))
    return [int(match[1]) for match in matches if match]


def is_not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has what this tag names: its `If-None-Match` lists the tag, or is `*`."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _OPAQUE_TAGS.findall(if_none_match)


def read_response(
    content: JsonObject, if_none_match: str | None, etag: str | None = None
) -> Response:
    """The response to a GET: 200 with the content and its tag, or 304 with the tag alone.

    Without an `etag` the tag is made of the encoded content.
    """
    body = encode_json(content)
    headers = {"ETag": etag or body_etag(body)}
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
