"""The database's URL: the driver, and several hosts in libpq's form and in SQLAlchemy's."""

from typing import Any

import pytest
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from backend.storage.postgres.url import dialect_url, driver_options


def connect_arguments(url: str) -> dict[str, Any]:
    """What psycopg2 is called with."""
    dialect: Any = PGDialect_psycopg2
    arguments: dict[str, Any] = dialect().create_connect_args(dialect_url(url))[1]
    return arguments


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://a/b", "postgresql+psycopg2://a/b"),
        ("postgres://a/b", "postgresql+psycopg2://a/b"),
        (
            "postgresql+psycopg2://a:1/b?host=/run/pg",
            "postgresql+psycopg2://a:1/b?host=%2Frun%2Fpg",
        ),
    ],
)
def test_the_driver_is_psycopg2(given: str, used: str) -> None:
    """SQLAlchemy 2.1 would use psycopg 3 for `postgresql://`."""
    assert dialect_url(given).render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u:p%40w@h1:1,h2:2/db", "h1,h2", "1,2"),
        ("postgresql://u:p%40w@h1,h2:2/db", "h1,h2", ",2"),
        ("postgresql://u:p%40w@[::1]:1,[fe80::2]/db", "::1,fe80::2", "1,"),
        ("postgresql://u:p%40w@h1:1,[fe80::2]:2/db", "h1,fe80::2", "1,2"),
        ("postgresql://u:p%40w@%2Frun%2Fpg,h2:2/db", "/run/pg,h2", ",2"),
        ("postgresql://u:p%40w@/db?host=h1:1&host=h2:2", "h1,h2", "1,2"),
        ("postgresql://u:p%40w@/db?host=h1,h2&port=1,2", "h1,h2", "1,2"),
    ],
)
def test_several_hosts_are_tried_for_one_that_takes_writes(
    url: str, hosts: str, ports: str
) -> None:
    assert connect_arguments(url) == {
        "host": hosts,
        "port": ports,
        "user": "u",
        "password": "p@w",
        "dbname": "db",
        "target_session_attrs": "read-write",
    }


def test_the_url_decides_which_of_the_hosts_is_used() -> None:
    given = connect_arguments("postgresql://h1,h2/db?target_session_attrs=primary&sslmode=require")
    assert (given["target_session_attrs"], given["sslmode"]) == ("primary", "require")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40w@h/db",
        "postgres://u@h:1/db?sslmode=require&application_name=x%2By",
        "postgresql+psycopg2://u@/db?host=%2Frun%2Fpg",
        "postgresql+psycopg2://u@/db?host=/run/pg%20x",
        "postgresql://u:p%40w@h1:1,h2:2/db",
        "postgresql://u:p%40w@h1,h2:2/db?target_session_attrs=primary",
        "postgresql://u@%2Frun%2Fpg,h2:2/db",
        "postgresql://u@/db?host=h1,h2&port=1,2",
        "postgresql://h/db?options=-c%20search_path%3Dx",
    ],
)
def test_without_sqlalchemy_psycopg2_is_called_with_the_same(url: str) -> None:
    assert driver_options(url) == {k: str(v) for k, v in connect_arguments(url).items()}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d",
        "host=h",
        "postgresql://u:p@w@h/d",
        "postgresql:///d?host=a:1&host=b:2",
        "postgresql://u:p%00w@h/d",
        "postgresql://u:p/w@/d?host=h",
        "postgresql://u:p/w@h:1/d",
        "postgresql://h:22/w0rd@h:1/d",
        "postgresql://u:secret/d?host=h",
        "postgresql://h:/d",
        "postgresql://h:x/d",
        "postgresql://h/d?sslmode=",
        "postgresql://h/d?options=-c+search_path%3Dx",
        "postgresql://h/d?connect_timeout=9",
    ],
)
def test_what_libpq_understands_otherwise_or_not_is_refused_without_sqlalchemy(url: str) -> None:
    with pytest.raises(ValueError, match=r"libpq|port|URL|PostgreSQL|@"):
        driver_options(url)


@pytest.mark.parametrize("hosts", ["h1:x,h2", "h1:1,h2:p:q"])
def test_an_invalid_port_is_refused(hosts: str) -> None:
    with pytest.raises(ValueError, match="not a port"):
        dialect_url(f"postgresql://{hosts}/db")
