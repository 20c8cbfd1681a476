"""How much memory the engines have: files of control groups as Linux writes them."""

import os
from pathlib import Path

import pytest

from backend.embedded.machine import available_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("process_cgroups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": f"{64 * MIB}\n"}, 64 * MIB),  # a container of version 2
        ("0::/a.slice/b.service\n", {"a.slice/b.service/memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        (
            "0::/a.slice/b.service\n",
            {"a.slice/b.service/memory.max": "max\n", "a.slice/memory.max": f"{64 * MIB}\n"},
            64 * MIB,
        ),
        (
            "2:cpu,cpuacct:/b\n1:memory:/b\n0::/\n",
            {"memory/b/memory.limit_in_bytes": f"{64 * MIB}\n", "memory/b/memory.max": "1\n"},
            64 * MIB,
        ),
        # Version 1 writes a number without a limit, too: more than the machine has.
        ("1:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/gone\n", {}, MACHINE),
        (None, {}, MACHINE),  # not Linux
    ],
)
def test_the_least_limit_of_all_control_groups_is_what_there_is(
    tmp_path: Path, process_cgroups: str | None, limits: dict[str, str], expected: int
) -> None:
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    process = tmp_path / "process"
    if process_cgroups is not None:
        process.write_text(process_cgroups)
    assert available_memory(tmp_path, process) == expected
