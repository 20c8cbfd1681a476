"""The hosts of an Elasticsearch cluster, as one setting names them."""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from backend.domain.urls import split_url

_BETWEEN_URLS = re.compile(r",\s*(?=https?://)")
_DEFAULT_PORTS = {"http": 9200, "https": 443}


class ClusterHosts(NamedTuple):
    """Where the nodes of a cluster are asked, and as whom; `user` is empty if no host has one."""

    urls: list[str]
    """Without user and password, each with its port."""
    user: str
    password: str


def parse_hosts(url: str) -> ClusterHosts:
    """The hosts that a URL names, each once, in its order.

    The hosts of one URL are separated by commas and share its scheme and path:
    `https://USER:PASSWORD@H1:9200,H2:9200`. Whole URLs may be separated by commas, too. The user is given
    once or with each host. Raises ValueError if a host can't be used, or if users or schemes differ.
    """
    parts = [part for one in _BETWEEN_URLS.split(url.strip()) for part in _hosts_of_url(one)]
    logins = {(unquote(p.username), unquote(p.password or "")) for p in parts if p.username}
    if len(logins) > 1 or len({part.scheme for part in parts}) > 1:
        raise ValueError
    user, password = logins.pop() if logins else ("", "")
    return ClusterHosts(list(dict.fromkeys(map(_base_url, parts))), user, password)


def _hosts_of_url(url: str) -> Iterator[SplitResult]:
    """The URL of each of its hosts."""
    scheme, authority, path, _, _ = split_url(url)
    if "," in path:
        raise ValueError
    login, at, addresses = authority.rpartition("@")
    if "@" in login and "," in login:  # each host has a login; commas in passwords are %2C
        login, at, addresses = "", "", authority
    for address in addresses.split(","):
        yield urlsplit(f"{scheme}://{login}{at}{address.strip()}{path}")


def _base_url(parts: SplitResult) -> str:
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"{parts.scheme}://{name}:{port}{parts.path.rstrip('/')}"
