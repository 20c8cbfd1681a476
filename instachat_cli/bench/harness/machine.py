"""Facts about the machine and the program. It must stay light: it imports nothing from `backend`."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[3]


def machine() -> dict[str, str]:
    """The facts, by name."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{_system()}, kernel {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "InstaChat": _commit(),
    }


def other_cpu_share() -> float:
    """The share of the processors' time that other programs use, measured for one second."""
    return psutil.cpu_percent(interval=1) / 100


def describe_other_use(share: float) -> dict[str, str]:
    """The fact of how much other programs used."""
    return {"used by others": f"{share:.0%} of it, before the start"}


def packages(*names: str) -> str:
    """The installed versions of these packages."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


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


def _commit() -> str:
    """The commit of the checkout, and whether tracked files differ from it."""
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
