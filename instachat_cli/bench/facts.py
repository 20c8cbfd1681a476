"""What a number is worth nothing without: the machine, the engines, the commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.status import redis_engine

_ROOT = Path(__file__).parents[2]


def facts(backend: Backend) -> dict[str, str]:
    """The facts of this run, by name."""
    return machine() | {
        "PostgreSQL": _postgres(backend),
        "Redis": _redis(backend),
        "libraries": _libraries("redis", "hiredis", "psycopg2-binary", "SQLAlchemy", "huey"),
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def machine() -> dict[str, str]:
    """The facts of whatever runs here."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{_system()}, kernel {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "InstaChat": _commit(),
    }


def busy() -> float:
    """The share of the processors' time that others use right now."""
    return psutil.cpu_percent(interval=1) / 100


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _postgres(backend: Backend) -> str:
    with backend.database.connect() as connection:
        version, fsync = (
            connection.scalar(text(f"SHOW {name}")) for name in ("server_version", "fsync")
        )
    return f"{str(version).partition(' ')[0]}; fsync {fsync}, synchronous_commit on"


def _redis(backend: Backend) -> str:
    engine = redis_engine(backend.log)
    found = backend.log.configuration("appendonly", "appendfsync") or {}
    settings = ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
    return f"{engine.engine} {engine.version}; {settings or 'settings can’t be read'}"


def _libraries(*names: str) -> str:
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the checkout, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    return f"commit {commit}{', with changes' if changed else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", _ROOT, *arguments], check=True, text=True, capture_output=True
    )
    return done.stdout.strip()
