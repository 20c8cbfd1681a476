"""The URL of the database, as SQLAlchemy and psycopg2 take it."""

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from psycopg2.extensions import parse_dsn

from backend.domain.urls import split_url

if TYPE_CHECKING:  # commands that read need no SQLAlchemy
    from sqlalchemy import URL


class UnusableUrl(ValueError):
    """Why a URL can't be used, without any part of it: what looks like a host may be a password."""


def driver_options(url: str) -> dict[str, str]:
    """What psycopg2 takes to connect as SQLAlchemy does by `dialect_url`, made without importing that.

    Raises ValueError or psycopg2's ProgrammingError for what libpq and SQLAlchemy do not understand alike: a
    `/` in a password, a port that is not a number, and parameters that occur twice, are empty, or have a `+`,
    a port or a time-out.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UnusableUrl("it is no URL")
    _check(scheme, rest)
    parts = split_url(url)
    if "@" in parts.path or "+" in parts.query or "connect_timeout" in parts.query:
        raise UnusableUrl("libpq does not understand it")
    for host in parts.netloc.rpartition("@")[2].split(","):
        if host.endswith(":"):
            raise UnusableUrl("a port is missing")
        _split_port(host)
    for values in parse_qs(parts.query, keep_blank_values=True).values():
        if values[1:] or not values[0] or ":" in values[0]:
            raise UnusableUrl("libpq does not understand it")
    options: dict[str, str] = parse_dsn(f"postgresql://{rest}")
    if "," in options.get("host", ""):
        options.setdefault("target_session_attrs", "read-write")
    return options


def dialect_url(url: str) -> "URL":
    """The URL with the driver named, and several hosts in the form that SQLAlchemy reads.

    SQLAlchemy 2.1 would use psycopg 3 for `postgresql://`. libpq's form with several hosts,
    `postgresql://u:p@h1:1,h2:2/db`, is no URL for SQLAlchemy. Unless the URL says otherwise, connections to
    several hosts go to the one that takes writes. Raises ValueError or SQLAlchemy's ArgumentError.
    """
    from sqlalchemy import make_url

    scheme, separator, rest = url.partition("://")
    if not separator:
        return make_url(url)
    _check(scheme, rest)
    netloc = split_url(url).netloc
    user, at, hosts = netloc.rpartition("@")
    if "," in hosts:
        single = make_url(f"postgresql+psycopg2://{user}{at}{rest.removeprefix(netloc)}")
        names, ports = zip(*map(_split_port, hosts.split(",")), strict=True)
        parsed = single.update_query_dict({"host": ",".join(names), "port": ",".join(ports)})
    else:
        parsed = make_url(f"postgresql+psycopg2://{rest}")
    named = parsed.query.get("host", "")
    if isinstance(named, tuple) or "," in named:
        parsed = parsed.set(query={"target_session_attrs": "read-write", **parsed.query})
    return parsed


def _check(scheme: str, rest: str) -> None:
    """Raise UnusableUrl for the parts of a URL around `://`."""
    if not scheme.startswith("postgres"):
        raise UnusableUrl("it is not one of PostgreSQL")
    if "@" in rest.partition("@")[2].partition("?")[0]:
        raise UnusableUrl("an @ in a user's name or password is written as %40")
    if "%00" in rest:
        raise UnusableUrl("PostgreSQL takes no NUL character, %00")


def _split_port(host: str) -> tuple[str, str]:
    """The host, maybe an IPv6 address in brackets or an encoded folder, and its port or an empty text."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    if port and not port.isdigit():
        raise ValueError(f"{port} is not a port")
    return unquote(name.removeprefix("[").removesuffix("]")), port
