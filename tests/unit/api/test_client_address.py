"""Which addresses count as one client."""

import re

import pytest

from backend.api.client_address import client_owner, limited_name
from backend.domain.model import TOKEN_PATTERN


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_an_address_counts_as_itself_or_as_its_network(address: str, name: str) -> None:
    """A client has as many IPv6 addresses as it likes, all in one /64 network."""
    assert limited_name(address) == name


def test_a_client_without_an_application_has_a_share_that_no_token_has() -> None:
    """All addresses of its network have one together."""
    owner = client_owner("2001:db8:1:2::1")
    assert owner == client_owner("2001:db8:1:2::2") != client_owner("2001:db8:1:3::1")
    assert not re.fullmatch(TOKEN_PATTERN, owner)
