"""Runs `instachat demo` on private engines and in a temporary folder. `make demo` runs it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INSTACHAT = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "instachat"
ENGINES = ("DATABASE_URL", "REDIS_URL", "HUEY_URL", "ELASTICSEARCH_URL")


def remove_home(home: Path) -> None:
    """Delete the folder, repeatedly, because an engine that is ending may still write its last files."""
    for _ in range(100):
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(0.1)
    print(f"could not remove {home}", file=sys.stderr)


def main() -> int:
    environment = dict(os.environ)
    for name in (f"INSTACHAT_{engine}" for engine in ENGINES):
        if environment.pop(name, ""):
            print(f"{name} is ignored: the demo uses private engines.", file=sys.stderr)
    home = Path(tempfile.mkdtemp(prefix="instachat-demo-"))
    try:
        if os.geteuid() == 0:
            home.chmod(0o711)  # root runs the engines as another user, which must be able to enter
        environment["INSTACHAT_HOME"] = str(home)
        demo = subprocess.Popen([INSTACHAT, "demo", *sys.argv[1:]], env=environment)
        # The terminal sends Ctrl-C to the demo as well; other signals are forwarded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for forwarded in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(forwarded, lambda number, _: demo.send_signal(number))
        status = demo.wait()
        return status if status >= 0 else 128 - status
    finally:
        remove_home(home)


if __name__ == "__main__":
    sys.exit(main())
