"""Creates .venv with the pinned dependencies and the project itself, editable. `make setup` runs it.

It is fast if nothing has changed. It may be interrupted, and two runs at once wait for each other. Of the
Pythons on PATH it takes the first one, unless another one is a much quicker build.
"""

# Old versions of `python3` must be able to parse this file and reach the check: use no syntax newer than 3.6.
import os
import subprocess
import sys

MIN_PYTHON = (3, 11)
MAX_PYTHON = (3, 14)  # the newest that the lock files have wheels for
NEWER_NAMES = ("python3.14", "python3.13", "python3.12", "python3.11")
# pyenv builds Python without profile-guided optimisation, Debian and the image `python` with it. Without it,
# a loop like this took 1.56 times as long. No variable of sysconfig says how Debian built it, so it is run.
MUCH_QUICKER = 0.8
TURNS = 4
PACE = """
import json, sys, time
def loop():
    started = time.process_time()
    found = {}
    for number in range(20000):
        found[number % 100] = (b"%d" % number).find(b"9") + len(str(number))
    return time.process_time() - started
seconds = min(loop() for _ in range(5))
print(json.dumps({"version": sys.version_info[:2], "path": sys.executable, "seconds": seconds}))
"""

if sys.version_info < MIN_PYTHON:
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "instachat-setup.json"  # the state that .venv was created from; written last
LOCK: list[int] = []  # the descriptor of the lock, once it is held


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def has_engine_wheels() -> bool:
    """Whether the wheels of the private engines run on this C library; pip has no marker for that."""
    name, version = platform.libc_ver()
    if sys.platform != "linux":
        return True
    return name == "glibc" and tuple(int(n) for n in version.split(".")[:2]) >= (2, 28)


def lock_files(stage: str) -> list[Path]:
    names = {"run": ["engines" if has_engine_wheels() else "bench", "build"], "dev": ["dev"]}
    return [Path("requirements", f"{name}.txt") for name in names[stage]]


def required_stages(stages: list[str]) -> dict[str, str]:
    """The state that .venv must have been created from, by stage; if it differs, .venv is created again."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    made_from = {"root": str(ROOT)}
    for stage in stages:
        digest = hashlib.sha256(json.dumps([project["project"], project["build-system"]]).encode())
        for path in lock_files(stage):
            digest.update(path.read_bytes())
        made_from[stage] = digest.hexdigest()
    if "--this-python" in sys.argv:
        made_from["python"] = identity()
    return made_from


def installed_stages() -> dict[str, str]:
    """The state that the existing .venv was created from; empty if there is no usable one."""
    try:
        made_from: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return made_from if PYTHON.exists() else {}


def record(made_from: dict[str, str]) -> None:
    unfinished = STAMP.with_suffix(".new")
    unfinished.write_text(json.dumps(made_from))
    unfinished.replace(STAMP)


def identity() -> str:
    return f"{sys.version.split()[0]} {sys.base_prefix}"


def pace(program: str) -> dict[str, Any]:
    """The version, the path, and the seconds for the loop of the Python that a program is; empty if none."""
    command = (program, "-I", "-S", "-c", PACE)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return answer


def paces() -> dict[str, float]:
    """The seconds that each usable Python on PATH takes for one loop, by the path of its program.

    They run by turns, and the best turn counts: on a busy machine a single one can take twice as long.
    """
    names = ("python3", *NEWER_NAMES)
    places = [Path(folder, name) for folder in os.get_exec_path() for name in names]
    found = {}
    for place in dict.fromkeys(place.resolve() for place in places if os.access(place, os.X_OK)):
        answer = pace(str(place))
        if answer and MIN_PYTHON <= tuple(answer["version"]) <= MAX_PYTHON:
            found[os.path.realpath(answer["path"])] = answer["seconds"]
    for _ in range(TURNS):
        for program in found:
            found[program] = min(found[program], pace(program).get("seconds", found[program]))
    return found


def much_quicker_python() -> str | None:
    """The path of a Python on PATH that is much quicker than this one, or None if this one was named."""
    found = {} if "--this-python" in sys.argv else paces()
    here = os.path.realpath(sys.executable)
    quickest = min(found, key=found.__getitem__, default=here)
    if here not in found or found[quickest] > found[here] * MUCH_QUICKER:
        return None
    factor = found[here] / found[quickest]
    say(f"Using {quickest}, which is {factor:.1f} times as quick")
    say(f"as {here} (make PYTHON=python3 … uses that one).")
    return quickest


def apt_get(*arguments: str) -> str:
    """Run apt-get; returns why it failed, or an empty text."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ("apt-get", "-q", *arguments)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return f"{command} failed:\n{done.stdout}{done.stderr}" if done.returncode else ""


def ensure_ensurepip() -> None:
    """Install the package that Debian's python3 needs for `venv`; without root, exit with instructions."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get") and sys.base_prefix == "/usr":
        say(f"This Python has no venv: installing {package}.")
        install = ["install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
        problem = apt_get(*install, package)
        if problem:  # the package lists may be outdated or missing
            problem = apt_get("update") or apt_get(*install, package)
        if problem:
            say(problem)
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip"):
            return
    sys.exit(
        f"make: {sys.executable} can't make virtual environments (its ensurepip is missing).\n"
        f"      On Debian and Ubuntu: sudo apt-get install {package}\n"
        "      Or name another Python: make PYTHON=/path/to/python3.12 …"
    )


def run(*command: str | Path) -> None:
    """Run a command without the Python and pip settings that would make it install elsewhere."""
    elsewhere = {"PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    environment = {k: v for k, v in os.environ.items() if k not in elsewhere}
    # A child that outlives this process still holds the lock while it changes .venv.
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=LOCK
    ) as child:
        output = child.communicate()[0].decode(errors="replace")
    if child.returncode:
        sys.exit(
            f"{output}make: the set-up failed (see above); correct the cause and run the same command "
            "again.\n      The lock files hold wheels for Python 3.11 to 3.14 on Linux and macOS."
        )


def pip(*arguments: str | Path) -> None:
    run(PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)


def install_locked(stage: str) -> None:
    files = [part for path in lock_files(stage) for part in ("-r", path)]
    pip("install", "-q", "--progress-bar=off", "--require-hashes", "--only-binary=:all:", *files)


def make(made_from: dict[str, str]) -> None:
    here = installed_stages()
    if any(made_from[key] != here.get(key) for key in made_from if key != "dev" or key in here):
        if VENV.is_symlink():  # `venv --clear` would empty the folder that it points to
            sys.exit(
                f"make: {VENV} is a link to {VENV.resolve()}, which this checkout does not own: remove it"
            )
        ensure_ensurepip()
        say(f"Setting up {VENV} with Python {sys.version.split()[0]} (once; it can take a minute).")
        STAMP.unlink(missing_ok=True)
        run(sys.executable, "-m", "venv", "--clear", VENV)
        install_locked("run")
        # The build backend is pinned, too, so the build downloads nothing.
        pip("install", "-q", "--no-deps", "--no-build-isolation", "--editable", ".")
        if not has_engine_wheels():
            say("The private engines have no wheels for this C library: set INSTACHAT_DATABASE_URL")
            say("and INSTACHAT_REDIS_URL.")
        here = {**made_from, "python": identity()}
        here.pop("dev", None)
        record(here)
    if "dev" in made_from and "dev" not in here:
        say(f"Adding the development tools to {VENV} (once; it can take a minute).")
        record({**here, "dev": "unfinished"})  # if this is interrupted, the next run repeats it
        install_locked("dev")
        here["dev"] = made_from["dev"]
        record(here)


def main() -> None:
    os.chdir(ROOT)
    made_from = required_stages(["run", "dev"] if "--dev" in sys.argv else ["run"])
    if made_from.items() <= installed_stages().items():
        return
    quicker = much_quicker_python()
    if quicker:
        code = subprocess.call([quicker, __file__, *sys.argv[1:], "--this-python"])
        if code in (0, 130):
            sys.exit(code)
        say(f"Trying again with {sys.executable}.")
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another `make` that is setting up.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOCK.append(lock.fileno())
        if not made_from.items() <= installed_stages().items():
            make(made_from)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
