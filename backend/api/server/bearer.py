"""`/api/v1/application/…`: the routes of the application whose token is in `Authorization: Bearer`.

Proxies log the path of a request, and not its headers. The path is completed before anything else reads it,
so these routes are those of `/api/v1/applications/{token}/…` in every respect.
"""

import re
from typing import Final

from backend.api.parameters import APPLICATION, APPLICATIONS
from backend.api.server.fast_request import ReceivedHeaders
from backend.domain.model import TOKEN_PATTERN

_PATH: Final = APPLICATION.encode()
_TARGET: Final = APPLICATIONS.encode() + b"/"
_match_bearer = re.compile(rf"bearer +({TOKEN_PATTERN}) *".encode(), re.IGNORECASE).fullmatch


def complete_path(url: bytes, headers: ReceivedHeaders) -> bytes:
    """The request's target; with the token from its header, if the path is one of these."""
    if not url.startswith(_PATH) or url[len(_PATH) : len(_PATH) + 1] not in (b"", b"/", b"?"):
        return url
    for name, value in headers:
        if name == b"authorization" and (match := _match_bearer(value)):
            return _TARGET + match[1] + url[len(_PATH) :]
    return url
