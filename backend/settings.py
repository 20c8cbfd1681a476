"""The settings: their values, the origin of each value, and printing them without secrets."""

import os
import re
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from backend.domain.errors import Invalid
from backend.domain.urls import split_url

PREFIX = "INSTACHAT_"
DEFAULT_KEPT_PERCENT = 20
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


class LogRetention(NamedTuple):
    """How long stored entries stay in the log, and in which part of Redis's memory: 0.2 is a fifth."""

    seconds: float
    memory_share: float


class Durability(StrEnum):
    """What an acknowledgement guarantees: `strict` survives power loss, `fast` may lose up to two seconds."""

    STRICT = "strict"
    FAST = "fast"


def default_home() -> Path:
    """The folder of the private engines: `/var/lib/instachat` for root, else in the user's data folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/instachat")
    return user_data_path("instachat", appauthor=False)


class Settings(BaseModel):
    """The settings of one installation, read from the environment (`INSTACHAT_…`) by `load`.

    An empty variable counts as unset, as in a shell's `${NAME:-default}`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    def __init__(self, **given: object) -> None:
        """The `given` values, and those of the environment for all others. Raises ValidationError."""
        super().__init__(**(_environment() | given))

    database_url: str | None = Field(
        None, description="PostgreSQL; unset: a private one in the home folder"
    )
    redis_url: str | None = Field(
        None, description="Redis or Valkey; unset: a private one in the home folder"
    )
    huey_url: str | None = Field(
        None, description="the plain Redis of the job queue; unset: the one above"
    )
    elasticsearch_url: str | None = Field(
        None, description="Elasticsearch; unset: PostgreSQL searches, by scanning a chat's texts"
    )
    elasticsearch_api_key: SecretStr | None = Field(
        None, description="Elasticsearch's API key; unset: the user and the password of its URL"
    )
    elasticsearch_ca_file: Path | None = Field(
        None,
        description="CA certificate for Elasticsearch (PEM); unset: the system's CAs",
    )
    elasticsearch_shards: int = Field(
        1, ge=1, le=1024, description="Elasticsearch: primary shards of indices made from now on"
    )
    elasticsearch_replicas: int | None = Field(
        None,
        ge=0,
        le=16,
        description="Elasticsearch: copies of each shard of indices made from now on; unset: one, if there"
        " is a second node",
    )
    home: Path = Field(
        default_factory=default_home, description="the folder of the private engines"
    )
    durability: Durability = Field(
        Durability.STRICT,
        description="strict: acknowledged writes survive power loss; fast: up to 2 s may be lost",
    )
    durable_replicas: int = Field(
        0,
        ge=0,
        le=16,
        description="strict: replicas that must have a write on disk before the answer",
    )

    log_limit: int = Field(
        1_000_000,
        ge=1,
        description="reject new messages while a shard's log holds this many unstored entries; and whenever"
        " Redis uses 85% of its memory",
    )
    log_retention: str = Field(
        "10m/20%",
        pattern=r"^(0|[1-9][0-9]{0,4}[smh](/([1-9][0-9]?|100)%)?)$",
        description="how long stored log entries are kept, and in which share of Redis's memory; 0: not",
    )
    admin_token: SecretStr | None = Field(
        None, description="token for the operator's HTTP routes; unset: the routes do not exist"
    )
    host: str = Field("127.0.0.1", description="where the HTTP API listens")
    port: int = Field(3000, ge=1, le=65_535, description="the port of the HTTP API")
    app_creation_limit: str = Field(
        "20/minute",
        pattern=r"^(off|[1-9][0-9]{0,8}/(second|minute|hour|day))$",
        description="applications that one address may create over HTTP; off: unlimited",
    )
    cors_origins: str = Field(
        "",
        description="comma-separated CORS origins; empty: none",
    )

    @property
    def parsed_log_retention(self) -> LogRetention:
        """`log_retention`, as numbers."""
        age, _, share = self.log_retention.partition("/")
        seconds = 0 if age == "0" else int(age[:-1]) * _UNIT_SECONDS[age[-1]]
        return LogRetention(seconds, int(share.rstrip("%") or DEFAULT_KEPT_PERCENT) / 100)

    _flags: frozenset[str] = PrivateAttr(frozenset())  # the settings that a flag has set


def _environment() -> dict[str, str]:
    """The variables that are not empty, by the names of their fields."""
    prefix = PREFIX.lower()
    return {
        name.lower().removeprefix(prefix): value
        for name, value in os.environ.items()
        if value and name.lower().startswith(prefix)
    }


def load(**flags: object) -> Settings:
    """The settings from the environment, overridden by the given command-line flags.

    A flag that is None was not given. Raises Invalid, naming the variable, if a value is not valid.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = "; ".join(
            f"{environment_variable(str(e['loc'][0]))}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors()
        )
        raise Invalid(
            f"a setting is not valid: {problems}", "see `instachat config show --help`"
        ) from None
    settings._flags = frozenset(given)
    return settings


def environment_variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that give another process these settings, secrets included; unset ones are left out."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        environment_variable(name): (
            value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        )
        for name, value in values.items()
        if value is not None
    }


def origins(settings: Settings) -> dict[str, str]:
    """The origin of each setting's value: `flag`, `environment` or `default`."""

    def origin(name: str) -> str:
        if name in settings._flags:
            return "flag"
        return "environment" if name in settings.model_fields_set else "default"

    return {name: origin(name) for name in Settings.model_fields}


_BETWEEN_URLS = re.compile(r",\s*(?=[a-z+]+://)")
_ADDRESS = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
_HARMLESS = {
    *("host", "port", "user", "dbname", "db", "sslmode", "connect_timeout"),
    "target_session_attrs",
}


def redact(url: str) -> str:
    """The URL with its passwords, and every value of its query that might be secret, replaced by `***`.

    It may be several URLs, separated by commas. If the text can't be parsed with certainty, a secret may be
    anywhere in it, so all of it is replaced: a libpq string `host=… password=…`, a password whose `#`, `/` or
    `?` is not percent-encoded, or a port that is not a number.
    """
    shown = [_redact_one(part) for part in _BETWEEN_URLS.split(url)]
    return "***" if "***" in shown else ",".join(shown)


def refuse_unquoted_password(url: str, subject: str) -> None:
    """Raise Invalid if a `/`, `?` or `#` in the password of a URL of Redis is not percent-encoded.

    What precedes it would be taken for a host and a port, and an error would print it.
    """
    with suppress(ValueError):
        parts = split_url(url)
        if "@" in parts.path + parts.query + parts.fragment:
            raise Invalid(
                f"the {subject} URL *** can't be used: a character of its password is not encoded",
                "write # as %23, / as %2F, ? as %3F and @ as %40",
            )


def _redact_one(url: str) -> str:
    try:
        parts = split_url(url)
    except ValueError:
        return "***"
    if "://" not in url or parts.fragment or "@" in parts.path + parts.query:
        return "***"
    user, at, hosts = parts.netloc.rpartition("@")
    if not all(map(_ADDRESS.fullmatch, hosts.split(","))):
        return "***"
    if ":" in user:
        user = user.partition(":")[0] + ":***"
    pairs = [pair.partition("=")[::2] for pair in parts.query.split("&") if pair]
    query = "&".join(f"{name}={value if name in _HARMLESS else '***'}" for name, value in pairs)
    return f"{parts.scheme}://{user}{at}{hosts}{parts.path}" + (f"?{query}" if query else "")
