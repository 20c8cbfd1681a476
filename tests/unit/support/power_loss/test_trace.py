"""Reading what strace writes."""

from pathlib import Path

import pytest

from tests.support.power_loss.trace import Kind, UnknownOperation, read_trace


def hex_of(text: str) -> str:
    """As strace writes a text."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


FILE = f"7<{hex_of('/d/a.aof')}>"


def read(folder: Path, *lines: str) -> list[tuple[Kind, str, bytes]]:
    """The operations of some lines."""
    output = folder / "trace"
    output.write_text("".join(f"12 1700000000.5 {line}\n" for line in lines))
    return [(each.kind, each.path, each.data) for each in read_trace(output, Path("/d"))]


def test_the_operations_on_files_of_the_folder_are_read(tmp_path: Path) -> None:
    """Paths may be relative, and writes shorter than they were asked to be. Failures are left out."""
    found = read(
        tmp_path,
        f'openat(AT_FDCWD<{hex_of("/d")}>, "{hex_of("a.aof")}", O_WRONLY|O_CREAT, 0644) = {FILE}',
        f'openat(AT_FDCWD<{hex_of("/d")}>, "{hex_of("/x")}", O_WRONLY|O_CREAT, 0644) = 8',
        f'write({FILE}, "{hex_of("hello")}", 5) = 4',
        f'write(8<{hex_of("socket:[1]")}>, "{hex_of("hello")}", 5) = 5',
        f'write(2<{hex_of("/d/log")}>, "{hex_of("hello")}", 5) = 5',
        f"fsync({FILE}) = -1 EIO (Input/output error)",
        f"fdatasync({FILE}) = 0",
        f'unlink("{hex_of("a.aof")}") = 0',
        f'write({FILE}(deleted), "{hex_of("hello")}", 5) = 5',
    )
    assert found == [
        (Kind.CREATE, "/d/a.aof", b""),
        (Kind.WRITE, "/d/a.aof", b"hell"),
        (Kind.BEGIN_SYNC, "/d/a.aof", b""),
        (Kind.END_SYNC, "/d/a.aof", b""),
        (Kind.UNLINK, "/d/a.aof", b""),
    ]


def test_a_sync_ends_where_it_returns(tmp_path: Path) -> None:
    """What another thread does meanwhile is not covered by it."""
    found = read(
        tmp_path,
        f"fdatasync({FILE} <unfinished ...>",
        f'write({FILE}, "{hex_of("x")}", 1) = 1',
        "<... fdatasync resumed>) = 0",
    )
    assert [kind for kind, _, _ in found] == [Kind.BEGIN_SYNC, Kind.WRITE, Kind.END_SYNC]


@pytest.mark.parametrize(
    "call", [f"writev({FILE}, [], 0) = 0", f"fallocate({FILE}, FALLOC_FL_PUNCH_HOLE, 0, 5) = 0"]
)
def test_an_operation_that_is_not_understood_is_an_error(tmp_path: Path, call: str) -> None:
    with pytest.raises(UnknownOperation):
        read(tmp_path, call)
