"""Who a client is as long as it has named no application: its address."""

from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.requests import Request

IPV6_PREFIX_LENGTH = 64  # a customer has at least so much, with 2^64 addresses in it


def client_address(request: Request) -> str:
    """The address; `unknown` where the connection has none, as over a Unix socket."""
    return request.client.host if request.client else "unknown"


def limited_name(address: str) -> str:
    """What an address counts as: an IPv4 address as itself, an IPv6 address as its /64 network."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has none
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), IPV6_PREFIX_LENGTH), strict=False))


def client_owner(address: str) -> str:
    """Whose share of threads and memory the client has: it differs from each application's token.

    A token is a segment of a path, and has no slash.
    """
    return f"/{limited_name(address)}"
