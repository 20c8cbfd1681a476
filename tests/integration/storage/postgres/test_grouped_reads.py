"""Grouped reads: their plans do not depend on statistics, and their times are those of the ordinary reads."""

import re
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from backend.domain.serialization import rfc3339
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.grouped_reads import GroupedRead
from tests.conftest import Engines


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "not prepared"])
@pytest.mark.parametrize("statement", grouped_reads.ALL, ids=lambda statement: statement.name)
def test_the_plan_made_for_empty_tables_uses_their_keys(
    engines: Engines, statement: GroupedRead, prepared: bool
) -> None:
    """So it stays right when they grow: no table is read from end to end, also not by another index."""
    url = make_url(engines.fresh_database()).set(drivername="postgresql")
    with closing(psycopg2.connect(url.render_as_string(hide_password=False))) as connection:
        cursor = connection.cursor()
        if prepared:
            cursor.execute(grouped_reads.SETUP)
        types = re.findall(r"\bcast\(\$\d AS (text|bigint)\[\]", statement.prepare)
        request: Any = tuple("t" * 24 if type_ == "text" else 1 for type_ in types)
        execute, values = statement.execute([request, request], prepared=prepared)
        settings, semicolon, read = execute.rpartition(";")
        cursor.execute(f"{settings}{semicolon} EXPLAIN (COSTS OFF) {read}", values)
        plan = [row[0].strip() for row in cursor.fetchall()]
    of_tables = "(?<!Function|Subquery)(?<!Bitmap Heap)(?<!CTE) Scan"  # a bitmap is made by a scan
    scans = [place for place, line in enumerate(plan) if re.search(of_tables, line)]
    assert scans
    assert all(
        re.search("Index (Only )?Scan", plan[place]) and plan[place + 1].startswith("Index Cond")
        for place in scans
    ), plan


@given(
    st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 31))  # noqa: DTZ001
    .map(lambda at: at.replace(tzinfo=UTC))
    .flatmap(
        lambda at: st.sampled_from([at, at.replace(microsecond=at.microsecond // 1000 * 1000)])
    )
)
def test_times_are_formatted_as_by_serialization(at: datetime) -> None:
    """PostgreSQL omits zeros at the end of the fraction, and the fraction if it is zero."""
    fraction = f".{at.microsecond:06}".rstrip("0").rstrip(".")
    in_postgres = f"{at:%Y-%m-%d %H:%M:%S}{fraction}+00"
    assert grouped_reads.to_rfc3339(in_postgres) == rfc3339(at)
    full = "2026-01-31 23:59:59.123456+00"
    for page in ([], [in_postgres], [full, in_postgres, full]):
        expected = [grouped_reads.to_rfc3339(each) for each in page]
        assert grouped_reads.all_to_rfc3339(page) == expected
