"""The token in a request's path: the one that clients use is replaced by the one that names it inside.

It is done before anything else reads the path, so that no route and no cache knows of another token.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from backend.api.parameters import APPLICATIONS
from backend.domain.errors import NotFound
from backend.ingest.tokens import Tokens

_UNKNOWN: Final = b"-"  # no token: each route answers as for any unknown one
_match_path = re.compile(rb"(%s/)([^/?#]+)(.*)" % APPLICATIONS.encode(), re.DOTALL).fullmatch


def original_path(url: bytes, tokens: Tokens) -> bytes:
    """The request's target with the application's original token; with an unknown one if it was replaced."""
    if tokens.is_trivial or not (match := _match_path(url)):
        return url
    before, token, rest = match.groups()
    try:
        original = tokens.original(unquote_to_bytes(token).decode("utf-8", "replace"))
    except NotFound:
        return before + _UNKNOWN + rest
    return before + original.encode() + rest if tokens.is_original(original) else url
