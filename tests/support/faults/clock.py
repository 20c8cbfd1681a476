"""A program's time of day that a test moves while it runs: what an operator or a broken NTP server does.

The programs have no setting for it. A library that the C compiler makes of `clock.c` is preloaded, so this
needs Linux and a compiler.
"""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
COMPILER = "cc"
CAN_BE_MOVED = shutil.which(COMPILER) is not None


class MovedClock:
    """The clock of the programs that are started with its `environment`. For programs that are executed."""

    def __init__(self, folder: Path) -> None:
        """Right until it is moved. `folder` gets its files."""
        self._library = folder / "clock.so"
        if not self._library.exists():
            command = [COMPILER, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)]
            subprocess.run(command, check=True)
        self._offset = folder / f"clock-{id(self):x}"
        self._offset.write_bytes(bytes(8))

    @property
    def environment(self) -> dict[str, str]:
        """The variables for a program."""
        return {"LD_PRELOAD": str(self._library), "TESTS_CLOCK_OFFSET": str(self._offset)}

    @property
    def prefix(self) -> list[str]:
        """The words before a command that has its own environment; its process is the command's."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items())]

    def move(self, seconds: int) -> None:
        """Be so many seconds ahead of the machine from now on, or behind it."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("q", seconds))
