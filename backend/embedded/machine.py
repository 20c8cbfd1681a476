"""How much memory the private engines have: the machine's, or what its control groups leave this process."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROCESS_CGROUPS = Path("/proc/self/cgroup")


def available_memory(cgroups: Path = CGROUPS, process_cgroups: Path = PROCESS_CGROUPS) -> int:
    """The bytes of memory that this process and its children may use together.

    A container, or a service of systemd, has a limit of its own, of which the machine's size says nothing.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_cgroup_limits(cgroups, process_cgroups)])


def _cgroup_limits(cgroups: Path, process_cgroups: Path) -> Iterator[int]:
    """The limits of this process's control groups, and of all groups around them."""
    try:
        lines = process_cgroups.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (
            (cgroups / "memory", "memory.limit_in_bytes")  # version 1
            if controllers
            else (cgroups, "memory.max")
        )
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):  # a container sees its own group as the root
            try:
                limit = (root / folder / file).read_text().strip()
            except OSError:
                continue
            if limit.isdecimal():  # else `max`
                yield int(limit)
