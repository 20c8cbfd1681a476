"""Which hosts a URL of Elasticsearch names."""

import pytest

from backend.storage.elasticsearch.hosts import parse_hosts


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("http://h", ["http://h:9200"]),
        ("https://h/", ["https://h:443"]),
        (
            "https://h1:1,h2,[::1]:3/es/",
            ["https://h1:1/es", "https://h2:443/es", "https://[::1]:3/es"],
        ),
        ("http://h1:1,http://h2:2", ["http://h1:1", "http://h2:2"]),
        ("http://h1:1/a, http://h2:2/b", ["http://h1:1/a", "http://h2:2/b"]),
        ("http://h:1,h:1,http://h:1", ["http://h:1"]),
    ],
)
def test_hosts_are_separated_by_commas(url: str, urls: list[str]) -> None:
    """Each is named once."""
    assert parse_hosts(url).urls == urls


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("http://h1,h2", ("", "")),
        ("http://u:p@h1,h2", ("u", "p")),
        ("http://u:p@h1,http://h2", ("u", "p")),
        ("http://h1,http://u:p@h2", ("u", "p")),
        ("http://u:p@h1,http://u:p@h2,h3", ("u", "p")),
        ("http://u:p@h1,u:p@h2", ("u", "p")),
        ("http://u:a,b@h1,h2", ("u", "a,b")),
        ("http://u:a%2Cb%40c@h1,u:a%2Cb%40c@h2", ("u", "a,b@c")),
        ("http://u:a@b@h", ("u", "a@b")),
    ],
)
def test_the_user_is_given_once_or_with_each_host(url: str, login: tuple[str, str]) -> None:
    assert parse_hosts(url)[1:] == login


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:1", "ftp://h", "http://", "http://h1,", "http://h:x", "http://["),
        *("http://h1/a,h2", "http://u:p@h1,http://v:p@h2", "http://h1,https://h2"),
    ],
)
def test_hosts_that_can_not_be_used_together_are_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller names the setting
        parse_hosts(url)
