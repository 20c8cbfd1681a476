"""Makes .venv: what the lock files pin, and the project itself, editable. `make setup` runs it.

Quick when nothing changed, safe to interrupt, safe to run twice at once.
"""

# Any `python3` must be able to read this far: syntax of Python 3.6, the standard library only.
import os
import subprocess
import sys

OLDEST = (3, 11)
NEWER_NAMES = ("python3.14", "python3.13", "python3.12", "python3.11")

if sys.version_info < OLDEST:
    if "--this-python" not in sys.argv:
        for name in NEWER_NAMES:
            try:
                if subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0:
                    os.execvp(name, [name, *sys.argv])
            except OSError:
                continue
    sys.exit(
        "make: InstaChat needs Python 3.11 or newer, and {} is {}.\n"
        "      Name another one: make PYTHON=/path/to/python3.12 …".format(
            sys.executable, sys.version.split()[0]
        )
    )

import fcntl
import hashlib
import importlib.util
import json
import platform
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "instachat-setup.json"  # written last: without it the folder is not finished


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def has_engine_wheels() -> bool:
    """Whether the wheels of the private engines run on this C library (no marker can tell)."""
    name, version = platform.libc_ver()
    if sys.platform != "linux":
        return True
    return name == "glibc" and tuple(int(n) for n in version.split(".")[:2]) >= (2, 28)


def lock_files() -> list[Path]:
    run = "engines" if has_engine_wheels() else "run"
    return [Path("requirements", f"{name}.txt") for name in (run, "build", "dev")]


def wanted() -> dict[str, object]:
    """What a finished .venv was made from; another value asks for a new one."""
    project = tomllib.loads(Path("pyproject.toml").read_text())
    digest = hashlib.sha256(json.dumps([project["project"], project["build-system"]]).encode())
    for path in lock_files():
        digest.update(path.read_bytes())
    return {"root": str(ROOT), "inputs": digest.hexdigest()}


def is_ready(made_from: dict[str, object], this_python: bool) -> bool:
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return False
    if this_python:
        made_from = {**made_from, "python": identity()}
    return PYTHON.exists() and made_from.items() <= found.items()


def identity() -> str:
    return f"{sys.version.split()[0]} {sys.base_prefix}"


def ensure_ensurepip() -> None:
    """Debian's python3 comes without what `venv` needs: install it as root, else say how."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
    command += ["-o", "DPkg::Lock::Timeout=120", package]
    if os.geteuid() == 0 and shutil.which("apt-get") and sys.base_prefix == "/usr":
        say(f"This Python has no venv: installing {package}.")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if subprocess.run(command, **quiet).returncode:  # the package lists are old or missing
            subprocess.run(["apt-get", "update", "-q"], env=environment, stdout=subprocess.DEVNULL)
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip"):
            return
    sys.exit(
        f"make: {sys.executable} can't make virtual environments (its ensurepip is missing).\n"
        f"      On Debian and Ubuntu: sudo apt-get install {package}\n"
        "      Or name another Python: make PYTHON=/path/to/python3.12 …"
    )


def run(*command: str | Path) -> None:
    """Run it away from the user's Python and pip settings that would install elsewhere."""
    elsewhere = {"PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    environment = {k: v for k, v in os.environ.items() if k not in elsewhere}
    status = subprocess.run(command, env=environment).returncode
    if status:
        sys.exit(
            f"make: the set-up failed (see above): {' '.join(map(str, command[:5]))} … ended with "
            f"{status}.\n      Run the same command again once that is mended. "
            "The lock files hold wheels for Python 3.11 to 3.14 on Linux and macOS."
        )


def build(made_from: dict[str, object]) -> None:
    ensure_ensurepip()
    say(f"Setting up {VENV} with Python {sys.version.split()[0]} (once).")
    run(sys.executable, "-m", "venv", "--clear", VENV)
    pip = (PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input")
    install = (*pip, "install", "--quiet", "--progress-bar=off")
    locked = [part for path in lock_files() for part in ("-r", path)]
    run(*install, "--require-hashes", "--only-binary=:all:", *locked)
    # The lock holds the build backend too, so nothing unpinned is fetched to build the project.
    run(*install, "--no-deps", "--no-build-isolation", "--check-build-dependencies", "-e", ".")
    run(*pip, "check")
    if not has_engine_wheels():
        say(
            "No private engines for this C library: set INSTACHAT_DATABASE_URL, INSTACHAT_REDIS_URL."
        )
    unfinished = STAMP.with_suffix(".new")
    unfinished.write_text(json.dumps({**made_from, "python": identity()}))
    unfinished.replace(STAMP)


def main() -> None:
    os.chdir(ROOT)
    this_python = "--this-python" in sys.argv
    made_from = wanted()
    if is_ready(made_from, this_python):
        return
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another make is setting up; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(made_from, this_python):
            build(made_from)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
