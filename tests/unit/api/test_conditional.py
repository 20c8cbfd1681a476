"""Entity tags and the headers that compare them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.api import conditional
from backend.api.headers import join_lists


@pytest.mark.parametrize(
    ("if_match", "versions"),
    [
        (None, None),
        ("*", None),
        (' "12" ', [12]),
        ('"12-3"', [12]),
        ("12", []),
        ('W/"12"', []),
        ('"12", "13-1" ,,"x",W/"14", "15"', [12, 13, 15]),
        ('"1x"', []),
        ('"12, 13"', []),
        ("", []),
    ],
)
def test_if_match_names_versions(if_match: str | None, versions: list[int] | None) -> None:
    """Or any; what is no tag of ours, and a weak one, matches no version."""
    assert conditional.parse_if_match(if_match) == versions


def test_a_count_changes_the_tag_of_an_application_and_not_its_version() -> None:
    """A new chat makes a cached application old, and does not refuse a rename."""
    tags = [conditional.application_etag(7, count) for count in (1, 2)]
    assert tags[0] != tags[1]
    assert [conditional.parse_if_match(tag) for tag in tags] == [[7], [7]]


def test_the_lines_of_a_list_are_joined() -> None:
    """In their order; other headers stay as they are."""
    headers = [(b"if-match", b'"1"'), (b"x", b"1"), (b"if-match", b'W/"2"'), (b"x", b"2")]
    assert join_lists(headers) == [(b"x", b"1"), (b"x", b"2"), (b"if-match", b'"1", W/"2"')]
    assert join_lists(headers[:2]) == headers[:2]


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        ("", False),
        ("*", True),
        ('"a"', True),
        ('W/"a"', True),
        ('"b","a"', True),
        ('"b", W/"a" ,"c"', True),
        ('"b"', False),
        ("a", False),
        ('"ab"', False),
    ],
)
def test_if_none_match_lists_tags(header: str | None, same: bool) -> None:
    """Compared weakly, as RFC 9110 says for this header."""
    assert conditional.is_not_modified(header, '"a"') is same


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_is_encoded_as_json(text: str) -> None:
    """In UTF-8, and no two texts have the same tag."""
    body = conditional.encode_json({"text": text})
    assert json.loads(body.decode()) == {"text": text}
    assert conditional.body_etag(body) != conditional.body_etag(body + b" ")
