from urllib.parse import urlsplit

import pytest

from backend.domain.urls import split_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:p@h1:1/5",
        "https://[::1]:2/es?a=b#c",
        "postgresql:///db?host=/run",
        "h1:1",
        "",
    ],
)
def test_a_url_of_one_host_is_split_as_by_the_standard_library(url: str) -> None:
    assert split_url(url) == urlsplit(url)


def test_any_of_several_hosts_may_be_an_ipv6_address() -> None:
    found = split_url("redis+cluster://u:p@h1:1,[::1]:2,h3?a=b")
    assert found.netloc == "u:p@h1:1,[::1]:2,h3"
    assert found.geturl() == "redis+cluster://u:p@h1:1,[::1]:2,h3?a=b"
