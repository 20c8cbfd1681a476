"""Sees to it that the tests have an Elasticsearch, and starts none: `make test` runs it after provision.

A given URL first (INSTACHAT_TEST_ELASTICSEARCH_URL), then Docker where it runs, then Maven and Java, which
it installs as root with apt-get. Where none is to be had it says so in one line; under CI=true that is a
failure.
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
    """Raises NotAvailable if it can't be done."""
    if os.environ.get("INSTACHAT_TEST_ELASTICSEARCH_URL"):
        return
    if docker_is_available():
        try:
            return pull()
        except NotAvailable:
            pass  # a Docker without a way to the image
    if tools_missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {' and '.join(PACKAGES)} for the tests.", file=sys.stderr)
        if not (apt_get("install", *PACKAGES)):
            apt_get("update")  # the package lists may be old or missing
            apt_get("install", *PACKAGES)
    installation()


def apt_get(action: str, *packages: str) -> bool:
    """Whether it went well."""
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
    print(f"Elasticsearch: not here, so its tests are skipped: {reason}", file=sys.stderr)
    sys.exit("CI=true: nothing may be skipped" if os.environ.get("CI") == "true" else 0)
