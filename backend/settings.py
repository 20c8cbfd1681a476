"""The settings: what they are, where each value came from, and how to print them without a secret."""

import os
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.domain.errors import Invalid

PREFIX = "INSTACHAT_"


class Durability(StrEnum):
    """What an answer promises: `strict` survives power loss, `fast` may lose up to two seconds."""

    STRICT = "strict"
    FAST = "fast"


def default_home() -> Path:
    """Where the private engines live: `/var/lib/instachat` as root, else the user's data folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/instachat")
    return user_data_path("instachat", appauthor=False)


class Settings(BaseSettings):
    """One installation's settings, read from the environment (`INSTACHAT_…`); made by `load`.

    A variable that is set and empty counts as unset, as in a shell's `${NAME:-default}`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: str | None = Field(
        None, description="PostgreSQL; unset: a private one under the home"
    )
    redis_url: str | None = Field(
        None, description="Redis or Valkey; unset: a private one under the home"
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
        description="who signed Elasticsearch's certificate (PEM); unset: the usual authorities",
    )
    home: Path = Field(
        default_factory=default_home, description="the folder of the private engines"
    )
    durability: Durability = Field(
        Durability.STRICT,
        description="strict: what was answered survives power loss; fast: up to 2 s may be lost",
    )
    durable_replicas: int = Field(
        0, ge=0, le=16, description="strict: replicas that have it on disk before the answer"
    )

    log_limit: int = Field(
        1_000_000,
        ge=1,
        description="accepting refuses while a shard's log holds so many entries that are not stored",
    )
    admin_token: SecretStr | None = Field(
        None, description="the operator's HTTP routes want it; unset: they do not exist"
    )
    host: str = Field("127.0.0.1", description="where the HTTP API listens")
    port: int = Field(3000, ge=1, le=65_535, description="the port of the HTTP API")
    app_creation_limit: str = Field(
        "20/minute",
        pattern=r"^(off|[1-9][0-9]{0,8}/(second|minute|hour|day))$",
        description="creations of applications by HTTP from one address; off: any number",
    )
    cors_origins: str = Field(
        "",
        description="origins whose web pages may use the API, with commas between; empty: none",
    )

    _flags: frozenset[str] = PrivateAttr(frozenset())  # the settings that a flag decided


def load(**flags: object) -> Settings:
    """The settings from the environment, with the given command-line flags over them.

    A flag that is None was not given. Raises Invalid, naming the variable, if a value can't be used.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{environment_variable(str(e['loc'][0]))}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors()
        )
        raise Invalid(
            f"a setting can't be used: {problems}", "see `instachat config show --help`"
        ) from None
    settings._flags = frozenset(given)
    return settings


def environment_variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def origins(settings: Settings) -> dict[str, str]:
    """For each setting where its value came from: `flag`, `environment` or `default`."""

    def origin(name: str) -> str:
        if name in settings._flags:
            return "flag"
        return "environment" if name in settings.model_fields_set else "default"

    return {name: origin(name) for name in Settings.model_fields}


_HARMLESS = {"host", "port", "user", "dbname", "db", "sslmode", "connect_timeout"}


def redact(url: str) -> str:
    """The URL with its password, and every value of its query that might be secret, replaced by `***`.

    What can't be read for certain as a URL might hold a secret anywhere, and is replaced as a whole:
    a libpq string `host=… password=…`, or a password whose `#`, `/` or `?` is not percent-encoded.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    if "://" not in url or parts.fragment or "@" in parts.path + parts.query:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        user = user.partition(":")[0] + ":***"
    pairs = [pair.partition("=")[::2] for pair in parts.query.split("&") if pair]
    query = "&".join(f"{name}={value if name in _HARMLESS else '***'}" for name, value in pairs)
    return f"{parts.scheme}://{user}{at}{host}{parts.path}" + (f"?{query}" if query else "")
