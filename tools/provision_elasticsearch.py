"""Installs Elasticsearch for the tests, without starting it. `make test` runs it after `tools/provision`.

It uses INSTACHAT_TEST_ELASTICSEARCH_URL if that is set, then Docker if it is available, then Maven and Java,
which it installs with apt-get as root. If none is available it says so in one line, and fails under CI=true.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.elasticsearch.docker import docker_is_available, pull
from tests.support.elasticsearch.provision import NotAvailable, installation, tools_missing

PACKAGES = ("openjdk-17-jdk-headless", "maven")


def provision() -> None:
    """Make Elasticsearch available. Raises NotAvailable if that fails."""
    if os.environ.get("INSTACHAT_TEST_ELASTICSEARCH_URL"):
        return
    if docker_is_available():
        try:
            return pull()
        except NotAvailable:
            pass  # this Docker cannot get the image
    if tools_missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {' and '.join(PACKAGES)} for the tests.", file=sys.stderr)
        if not (apt_get("install", *PACKAGES)):
            apt_get("update")  # the package lists may be outdated or missing
            apt_get("install", *PACKAGES)
    installation()


def apt_get(action: str, *packages: str) -> bool:
    """Run apt-get; returns whether it succeeded."""
    done = subprocess.run(
        [
            *("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", action),
            *(("--no-install-recommends", *packages) if packages else ()),
        ],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-3:]), file=sys.stderr)
    return done.returncode == 0


try:
    provision()
except NotAvailable as reason:
    print(f"Elasticsearch is not available, so its tests are skipped: {reason}", file=sys.stderr)
    sys.exit("CI=true: no test may be skipped" if os.environ.get("CI") == "true" else 0)
