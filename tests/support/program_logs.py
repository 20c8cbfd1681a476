"""What the programs that tests start write to standard error: none of it may quote data.

Each text of the loads begins with MARKER. `check` fails if a log has it, or the words with which PostgreSQL
and SQLAlchemy quote data. A fixture calls it after each test.
"""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MARKER = "unquotable"
QUOTES = (MARKER.encode(), b"COPY message", b"DETAIL:", b"CONTEXT:", b"[SQL:", b"[parameters:")


class ProgramLogs:
    """The logs of the programs of this process's tests. Programs that append to one file have one log."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], IO[bytes]] = {}
        """By device and inode: the file, read up to what was checked before."""

    def watch(self, stderr: int) -> int:
        """Check what is written to this descriptor from now on; returns the one to write to.

        That is a new file instead of /dev/null. A terminal or a pipe is not checked.
        """
        if stderr == subprocess.DEVNULL:
            log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as this process runs
            self._add(log)
            return log.fileno()
        with suppress(OSError):  # no regular file, or not on Linux
            path = Path(f"/proc/self/fd/{stderr}")
            if path.resolve(strict=True).is_file():
                self._add(path.open("rb"))
        return stderr

    def check(self) -> None:
        """Fail if a program has quoted data since the last check."""
        for log in self._open.values():
            text = os.pread(log.fileno(), os.fstat(log.fileno()).st_size - log.tell(), log.tell())
            log.seek(len(text), os.SEEK_CUR)
            found = [quote for quote in QUOTES if quote in text]
            assert not found, f"a log quotes data ({found}):\n{text.decode(errors='replace')}"

    def _add(self, log: IO[Any]) -> None:
        status = os.fstat(log.fileno())
        key = status.st_dev, status.st_ino
        if key in self._open:
            log.close()
        else:
            self._open[key] = log


program_logs = ProgramLogs()
