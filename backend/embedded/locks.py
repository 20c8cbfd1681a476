"""Locks on files (`flock`). The kernel drops them when their holder ends, however it ends."""

import fcntl
import os
from pathlib import Path


def try_lock(path: Path, mode: int) -> int | None:
    """Take a shared or exclusive lock (`fcntl.LOCK_SH`, `LOCK_EX`) without waiting.

    Returns a descriptor; closing it, or the end of the process, releases the lock. Returns None if another
    process holds a conflicting lock. Programs that this process starts do not inherit the descriptor. Raises
    OSError if the file can't be opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def is_held(path: Path) -> bool:
    """Whether any process holds the lock, shared or exclusive."""
    lock = try_lock(path, fcntl.LOCK_EX)
    if lock is None:
        return True
    os.close(lock)
    return False
