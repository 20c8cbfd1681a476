"""Installs the wheel as a user would, into empty environments, and uses it there. `make smoke` runs it.

It needs the index of packages, as the user does. Nothing is installed in the checkout's environment, and what
is run sees neither the checkout nor its environment.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_PYTHON = ROOT / ".venv" / "bin" / "python"
LOCK = ROOT / "requirements" / "engines.txt"
MAX_CORE_DISTRIBUTIONS = 40
MAX_CORE_BYTES = 120e6
BENCH = ("bench", "run", "mixed", "--users", "8", "--duration", "5s", "-o", "json")


def say(text: str) -> None:
    print(f"smoke: {text}", flush=True)


class Installation:
    """An environment that has the wheel with some extras, and a home of its own."""

    def __init__(self, folder: Path, wheel: Path, extras: str, constraints: Path) -> None:
        self.environment = folder / "environment"
        self.home = folder / "home"
        self.elsewhere = folder / "elsewhere"
        for made in (self.home, self.elsewhere):
            made.mkdir(parents=True)
            made.chmod(0o755)  # root runs the engines as another user, which must be able to enter
        subprocess.run(
            [BUILD_PYTHON, "-I", "-m", "venv", "--without-pip", self.environment], check=True
        )
        say(f"installing {wheel.name}{extras}")
        subprocess.run(
            [
                *(BUILD_PYTHON, "-I", "-m", "pip", "--python", self.environment / "bin" / "python"),
                *("--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"),
                *("--constraint", constraints, f"{wheel}{extras}"),
            ],
            cwd=self.elsewhere,
            check=True,
        )

    def popen(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start the program, outside of the checkout and without its environment."""
        return subprocess.Popen(
            [self.environment / "bin" / "instachat", *arguments],
            cwd=self.elsewhere,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.home),
                "INSTACHAT_HOME": str(self.home),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run the program; returns what it printed. Ends this script if the exit code is another one."""
        say(f"instachat {' '.join(arguments)}")
        process = self.popen(*arguments, **environment)
        printed, _ = process.communicate()
        if process.returncode != code:
            sys.exit(f"{printed}\nsmoke: exited with {process.returncode} instead of {code}")
        return printed


def check_core(core: Installation) -> None:
    """The size of the core, and what its commands say that need an extra."""
    (packages,) = core.environment.glob("lib/python*/site-packages")
    count = len(list(distributions(path=[str(packages)])))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    say(f"the core: {count} distributions, {size / 1e6:.0f} MB")
    if count > MAX_CORE_DISTRIBUTIONS or size > MAX_CORE_BYTES:
        sys.exit("smoke: the core is too large")
    core.run("--version")
    expect(core.run(*BENCH, code=1), "instachat[bench]")
    expect(core.run("apps", "list", code=1), "instachat[engines]")
    addresses = {
        "INSTACHAT_DATABASE_URL": "postgresql://127.0.0.1:9/x",
        "INSTACHAT_REDIS_URL": "redis://127.0.0.1:9",
        "INSTACHAT_ELASTICSEARCH_URL": "http://127.0.0.1:9",
    }
    expect(core.run("apps", "list", code=1, **addresses), "instachat[elasticsearch]")


def check_all(full: Installation) -> None:
    """The demo, a session with `up`, and a load test."""
    expect(full.run("demo"), "0 lost, 0 doubled, 0 changed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    say("instachat up")
    up = full.popen("up", "--port", str(port))
    try:
        assert up.stdout
        for line in up.stdout:
            if "ready" in line.lower():
                break
        else:
            sys.exit("smoke: `up` ended")
        token = full.run("apps", "create", "Smoke", "-q").strip()
        full.run("chats", "create", token)
        full.run("messages", "create", token, "1", "hello", "--wait", "searchable")
        expect(full.run("search", token, "1", "ELL", "-o", "json"), '"text": "hello"')
        up.send_signal(signal.SIGTERM)
        up.communicate()
        if up.returncode:
            sys.exit(f"smoke: `up` exited with {up.returncode}")
    finally:
        up.kill()
        up.wait()
    full.run(*BENCH)


def expect(printed: str, part: str) -> None:
    if part not in printed:
        sys.exit(f"{printed}\nsmoke: this lacks {part!r}")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="instachat-smoke-"))
    try:
        folder.chmod(0o755)
        subprocess.run(
            [BUILD_PYTHON, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            cwd=ROOT,
            env=os.environ | {"SOURCE_DATE_EPOCH": "1800000000"},
            check=True,
            capture_output=True,
        )
        (wheel,) = folder.glob("*.whl")
        constraints = folder / "constraints.txt"
        # The pinned versions. Hashes have no place in constraints for a file that was built a moment ago.
        pins = re.sub(r" \\\n(?: +--hash=\S+(?: \\)?\n)+", "\n", LOCK.read_text(encoding="utf-8"))
        constraints.write_text(pins, encoding="utf-8")
        check_core(Installation(folder / "core", wheel, "", constraints))
        check_all(Installation(folder / "full", wheel, "[engines,bench]", constraints))
        say("all of it works")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
