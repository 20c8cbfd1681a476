"""Installs Elasticsearch from Maven Central once for all runs, and adds the `ngram` tokenizer.

It is the distribution of Elasticsearch's own integration tests: a real node with few modules. It goes into
the user's cache folder, or for root into the system's, because Elasticsearch refuses to run as root and its
user must be able to read it. It appears there by one rename, so an interrupted installation is never
mistaken for a complete one. Two runs at once wait for each other.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import site_cache_path, user_cache_path

from tests.support.engines import die_with_parent

VERSION = "8.19.21"
JAVA = 17  # the oldest version that it runs on
_ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
_SHA256 = "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_PLUGIN = Path(__file__).with_name("plugin")


class NotAvailable(Exception):
    """Elasticsearch is not available on this machine; the message says why."""


@dataclass(frozen=True)
class ElasticsearchInstallation:
    """An unpacked Elasticsearch, and the Java that runs it."""

    home: Path
    java_home: Path


def installation() -> ElasticsearchInstallation:
    """The installation, downloaded if necessary. Raises NotAvailable if that fails."""
    java_home = _java_home()
    home = _home()
    if not home.exists():
        with _locked(home.with_name("lock")):
            if not home.exists():
                _install(home, java_home)
    return ElasticsearchInstallation(home, java_home)


def tools_missing() -> bool:
    """Whether `installation` needs Java or Maven, and they are missing."""
    try:
        _java_home()
    except NotAvailable:
        return True
    return not (_home().exists() or shutil.which("mvn"))


def _install(home: Path, java_home: Path) -> None:
    if not shutil.which("mvn"):
        raise NotAvailable("no Maven")
    for leftover in home.parent.glob(
        "unfinished-*"
    ):  # this process holds the lock, so none is in use
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=home.parent) as scratch:
        unpacked = Path(scratch, f"elasticsearch-{VERSION}")
        with zipfile.ZipFile(_download(Path(scratch), java_home)) as archive:
            archive.extractall(scratch)
        _add_plugin(unpacked, java_home)
        _make_readable(unpacked)
        unpacked.rename(home)


def _download(scratch: Path, java_home: Path) -> Path:
    sys.stderr.write(f"Downloading Elasticsearch {VERSION} for the tests (107 MB, once).\n")
    # A temporary repository: nothing remains in ~/.m2, and a broken file there has no effect.
    done = subprocess.run(
        [
            *("mvn", "--batch-mode", "--quiet", _COPY, f"-Dartifact={_ARTIFACT}"),
            *(f"-Dmaven.repo.local={scratch / 'repository'}", f"-DoutputDirectory={scratch}"),
        ],
        cwd=scratch,
        env={**os.environ, "JAVA_HOME": str(java_home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        reason = re.search(r"^\[ERROR\] (.*)", done.stdout, re.MULTILINE)
        raise NotAvailable(
            f"Maven could not download it: {reason[1] if reason else done.stdout[-300:]}"
        )
    archive = scratch / f"elasticsearch-{VERSION}.zip"
    with archive.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != _SHA256:
            raise NotAvailable(f"{archive.name} differs from the pinned file in its SHA-256")
    return archive


def _add_plugin(home: Path, java_home: Path) -> None:
    plugin = home / "plugins" / "instachat-tests"
    classes = plugin / "classes"
    classes.mkdir(parents=True)
    subprocess.run(
        [
            *(str(java_home / "bin" / "javac"), "--release", str(JAVA), "-proc:none"),
            *("-cp", f"{home}/lib/*", "-d", str(classes)),
            *map(str, _PLUGIN.glob("*.java")),
        ],
        check=True,
    )
    with zipfile.ZipFile(plugin / "plugin.jar", "w") as jar:
        for file in sorted(classes.rglob("*.class")):
            jar.write(file, file.relative_to(classes))
    shutil.rmtree(classes)
    shutil.copy(_PLUGIN / "named_components.json", plugin)
    (plugin / "stable-plugin-descriptor.properties").write_text(
        "name=instachat-tests\ndescription=analysis for tests\nversion=1\n"
        f"elasticsearch.version={VERSION}\njava.version={JAVA}\n"
    )


def _make_readable(home: Path) -> None:
    """Let every user read and run it; zipfile does not restore file modes."""
    home.chmod(0o755)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent == home / "bin" else 0o644)


def _home() -> Path:
    """The folder of the installation; its name depends on the version and on the plugin."""
    digest = hashlib.sha256()
    for file in sorted(_PLUGIN.iterdir()):
        digest.update(file.read_bytes())
    is_root = os.geteuid() == 0
    cache = (site_cache_path if is_root else user_cache_path)("instachat-tests")
    cache.mkdir(parents=True, exist_ok=True)
    if is_root:
        cache.chmod(0o755)  # independent of the umask
    return cache / f"elasticsearch-{VERSION}-{digest.hexdigest()[:12]}"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it however the holder ends
        yield


def _java_home() -> Path:
    """The home of a Java that is new enough and has a compiler."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if java := shutil.which("javac"):
        homes.append(Path(java).resolve().parent.parent)
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in homes:
        if (home / "bin" / "javac").exists() and _java_version(home) >= JAVA:
            return home
    raise NotAvailable(f"no JDK {JAVA} or newer")


def _java_version(home: Path) -> int:
    try:
        found = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
