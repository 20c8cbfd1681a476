"""URLs that name several hosts, as those of engines do."""

import re
from urllib.parse import SplitResult, urlsplit

_AUTHORITY = re.compile(r"[^/?#]*")


def split_url(url: str) -> SplitResult:
    """Like `urllib.parse.urlsplit`, for a URL whose hosts are separated by commas.

    That function refuses an IPv6 address in brackets behind another host, since Python 3.11.4 or its security
    patches. The hosts are not looked at here; split each by itself to check it. Raises ValueError.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return urlsplit(url)
    authority = _AUTHORITY.match(rest)
    netloc = authority[0] if authority else ""
    return urlsplit(f"{scheme}://host{rest[len(netloc) :]}")._replace(netloc=netloc)
