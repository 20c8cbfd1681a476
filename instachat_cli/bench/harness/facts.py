"""The facts that a figure depends on: the machine, the engines, the commit."""

from datetime import UTC, datetime

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.monitoring.status import redis_health
from instachat_cli.bench.harness.machine import machine, packages


def collect_facts(backend: Backend) -> dict[str, str]:
    """The facts of this run, by name, for the report."""
    return machine() | {
        "PostgreSQL": _postgres(backend),
        "Redis": _redis(backend),
        **({"Elasticsearch": backend.index.version() or "unknown"} if backend.index else {}),
        "libraries": packages(
            "redis", "hiredis", "msgspec", "psycopg2-binary", "SQLAlchemy", "huey", "elasticsearch"
        ),
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def _postgres(backend: Backend) -> str:
    with backend.database.connect() as connection:
        version, fsync = (
            connection.scalar(text(f"SHOW {name}")) for name in ("server_version", "fsync")
        )
    return f"{str(version).partition(' ')[0]}; fsync {fsync}, synchronous_commit on"


def _redis(backend: Backend) -> str:
    engine = redis_health(backend.log)
    options = backend.log.configuration("appendonly", "appendfsync") or {}
    settings = ", ".join(f"{name} {value}" for name, value in sorted(options.items()))
    return f"{engine.engine} {engine.version or engine.version_note}; {settings or 'settings can’t be read'}"
