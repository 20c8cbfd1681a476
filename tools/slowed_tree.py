"""A copy of the program whose server is slower, to see whether a comparison finds that."""

import shutil
from pathlib import Path
from typing import Final

from loadtest.run.commits import NAMES, PROJECT
from loadtest.run.installation import PACKAGES

_MODULE: Final = Path("backend", "api", "server", "fast_path.py")
_DELAY: Final = """

def _slowed(received, seconds):
    def data_received(self, data):
        if self._is_between_requests:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                pass
        received(self, data)

    return data_received


FastConnection.data_received = _slowed(FastConnection.data_received, {seconds!r})
"""


def copy_tree(folder: Path) -> None:
    """Copy the packages of this program to a folder."""
    for name in NAMES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGES / name, folder / name, ignore=ignored)
    if (PACKAGES / PROJECT).exists():
        shutil.copy(PACKAGES / PROJECT, folder)


def slow_down(folder: Path, seconds: float) -> None:
    """Make the server of such a copy keep a processor busy for that long before each request."""
    with (folder / _MODULE).open("a", encoding="utf-8") as module:
        module.write(_DELAY.format(seconds=seconds))
