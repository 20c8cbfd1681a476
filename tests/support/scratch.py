"""Folders for the data of engines, in memory if this machine has plenty of it.

There a sync to the disk costs nothing, and neither do the files of a thousand databases. An engine that is
killed finds its data again; only a power cut would show the difference, and no test has one.

A test run that is killed leaves its folders. The next one deletes them, because they would take memory.
"""

import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 << 30
"""So much memory has to be free: the tests use up to half of it."""


def scratch_folder(prefix: str, elsewhere: str | None = None) -> Path:
    """A temporary folder that an engine's user can reach; it is `elsewhere` if it can't be in memory."""
    parent = MEMORY if memory_is_plenty() else elsewhere
    folder = Path(tempfile.mkdtemp(prefix=f"instachat-test-{os.getpid()}-{prefix}-", dir=parent))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder


@cache
def memory_is_plenty() -> bool:
    """Whether folders are in memory; some machines have none there, or one without room or programs."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    if found.f_flag & os.ST_NOEXEC or not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    remove_leftovers(MEMORY)
    found = os.statvfs(MEMORY)
    room = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return room > ROOM_BYTES


def remove_leftovers(parent: Path) -> None:
    """Delete the folders whose process, the number in their name, has ended."""
    for folder in parent.glob("instachat-test-*"):
        owner = re.match(r"instachat-test-(\d+)-", folder.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(folder, ignore_errors=True)
