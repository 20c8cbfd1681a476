"""The settings: what they are, where each value came from, and how to print them without a secret."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.errors import Invalid

PREFIX = "INSTACHAT_"


class Durability(StrEnum):
    """What an answer promises: `strict` survives power loss, `fast` may lose up to two seconds."""

    STRICT = "strict"
    FAST = "fast"


def default_home() -> Path:
    """The folder of the private engines: `/var/lib/instachat` as root, else the platform's user data folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/instachat")
    return user_data_path("instachat", appauthor=False)


def _empty_is_unset(value: object) -> object:
    return None if value == "" else value


Url = Annotated[str | None, BeforeValidator(_empty_is_unset)]


class Settings(BaseSettings):
    """One installation's settings, read from the environment (`INSTACHAT_…`)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: Url = Field(None, description="PostgreSQL; unset: a private one under the home")
    redis_url: Url = Field(None, description="Redis or Valkey; unset: a private one under the home")
    huey_url: Url = Field(None, description="the plain Redis of the job queue; unset: the one above")
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


def load(**flags: object) -> Settings:
    """The settings from the environment, with the given command-line flags over them.

    Raises Invalid, naming the variable, if a value can't be used.
    """
    try:
        return Settings(**{k: v for k, v in flags.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{'.'.join(str(p) for p in e['loc']).upper()}: {e['msg']}"
            for e in error.errors()
        )
        raise Invalid(
            f"a setting can't be used: {problems}", "see `instachat config show --help`"
        ) from None


def origins(settings: Settings) -> dict[str, str]:
    """For each setting where its value came from: `flag`, `environment` or `default`."""
    from_environment = {
        name for name in Settings.model_fields if os.environ.get(PREFIX + name.upper())
    }
    return {
        name: "environment"
        if name in from_environment
        else "flag"
        if name in settings.model_fields_set and (PREFIX + name.upper()) not in os.environ
        else "default"
        for name in Settings.model_fields
    }


def redacted(url: str) -> str:
    """The URL with its password, and every value of its query, replaced by `***`."""
    try:
        parts = urlsplit(url)
        if parts.password is None and not parts.query:
            return url
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username or ''}:***@" if parts.password is not None else ""
        if not user and "@" in parts.netloc:
            user = f"{parts.username}@"
        query = "&".join(f"{pair.partition('=')[0]}=***" for pair in parts.query.split("&") if pair)
        return urlunsplit((parts.scheme, user + host, parts.path, query, parts.fragment))
    except ValueError:
        return "***"
