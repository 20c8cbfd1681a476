"""Times as RFC 3339."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import Invalid
from backend.domain.model import MessageRange
from backend.domain.serialization import rfc3339
from backend.domain.times import parse_rfc3339


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_the_program_writes_is_read_unchanged(at: datetime) -> None:
    """To the microsecond."""
    assert parse_rfc3339(rfc3339(at)) == at


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T23:59:59Z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-01-31t23:59:59z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-01-31 23:59:59Z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)),
        (
            "2026-01-31T23:59:59.5+02:30",
            datetime(2026, 1, 31, 23, 59, 59, 500_000, timezone(timedelta(minutes=150))),
        ),
        (
            "2026-01-31T23:59:59.1234569Z",
            datetime(2026, 1, 31, 23, 59, 59, 123_456, tzinfo=UTC),
        ),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, expected: datetime) -> None:
    """Lower case, a space, an offset, any number of digits, a leap second."""
    assert parse_rfc3339(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2h",
        "now",
        "2026-01-31",
        "2026-01-31T23:59:59",
        "2026-01-31T23:59Z",
        "2026-01-31T23:59:59 02:00",
        "2026-02-30T00:00:00Z",
        "2026-01-31T24:00:01Z",
        "2026-01-31T23:59:61Z",
        "2026-01-31T23:59:59+25:00",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "٢٠٢٦-01-31T23:59:59Z",
        "2026-01-31T23:59:59Z\n",
        "1764000000",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """With an example of what is right."""
    with pytest.raises(Invalid, match="2026-01-31T23:59:59Z"):
        parse_rfc3339(text)


def test_the_earliest_and_the_latest_times_are_compared() -> None:
    """Also where one of them is in no year of UTC."""
    first = parse_rfc3339("0001-01-01T00:00:00+14:00")
    last = parse_rfc3339("9999-12-31T23:59:59-14:00")
    assert MessageRange(since=first, until=last).has_times
    with pytest.raises(Invalid, match="later"):
        MessageRange(since=last, until=first)
