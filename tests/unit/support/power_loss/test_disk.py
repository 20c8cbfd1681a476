"""What a power loss leaves of a disk: never less than what is synced, never more than what was done."""

import random
from pathlib import PurePosixPath

from tests.support.power_loss.disk import Disk
from tests.support.power_loss.trace import Kind, Operation

FOLDER = "/data"
LOG, NEW = f"{FOLDER}/log.aof", f"{FOLDER}/new.aof"


def operation(kind: Kind, path: str = LOG, data: bytes = b"", size: int = 0) -> Operation:
    """An operation at any time."""
    new_path = NEW if kind is Kind.RENAME else ""
    return Operation(kind, 0.0, 1, path, data, size=size, new_path=new_path)


def sync(path: str) -> list[Operation]:
    """A synchronization of a file or a folder."""
    return [operation(Kind.BEGIN_SYNC, path), operation(Kind.END_SYNC, path)]


def left_of(*operations: Operation) -> set[tuple[tuple[str, bytes], ...]]:
    """All that a power loss may leave after these operations."""
    found = set()
    for seed in range(300):
        disk = Disk()
        for each in operations:
            disk.apply(each)
        files = disk.lose_power(random.Random(seed))
        found.add(tuple(sorted((PurePosixPath(path).name, data) for path, data in files.items())))
    return found


def test_a_name_that_is_not_synced_may_be_gone() -> None:
    written = (operation(Kind.CREATE), operation(Kind.WRITE, data=b"ab"), *sync(LOG))
    assert left_of(*written) == {(), (("log.aof", b"ab"),)}
    assert left_of(*written, *sync(FOLDER)) == {(("log.aof", b"ab"),)}


def test_a_write_that_is_not_synced_may_be_there_in_part() -> None:
    written = (operation(Kind.CREATE), operation(Kind.WRITE, data=b"a"), *sync(LOG), *sync(FOLDER))
    more = (operation(Kind.WRITE, data=b"bc"), operation(Kind.WRITE, data=b"d"))
    contents = (b"a", b"ab", b"abc", b"abcd")
    assert left_of(*written, *more) == {(("log.aof", content),) for content in contents}
    assert left_of(*written, *more, *sync(LOG)) == {(("log.aof", b"abcd"),)}


def test_a_write_during_a_sync_is_not_synced_by_it() -> None:
    begin, end = sync(LOG)
    written = (operation(Kind.CREATE), *sync(FOLDER), operation(Kind.WRITE, data=b"a"), begin)
    found = left_of(*written, operation(Kind.WRITE, data=b"b"), end)
    assert found == {(("log.aof", b"a"),), (("log.aof", b"ab"),)}


def test_a_new_name_replaces_the_old_one_once_it_is_synced() -> None:
    written = (operation(Kind.CREATE), *sync(FOLDER), operation(Kind.RENAME))
    assert left_of(*written) == {(("log.aof", b""),), (("new.aof", b""),)}
    assert left_of(*written, *sync(FOLDER)) == {(("new.aof", b""),)}


def test_a_file_may_be_cut_or_not() -> None:
    written = (operation(Kind.CREATE), operation(Kind.WRITE, data=b"ab"), *sync(LOG), *sync(FOLDER))
    found = left_of(*written, operation(Kind.TRUNCATE, size=1))
    assert found == {(("log.aof", b"ab"),), (("log.aof", b"a"),)}


def test_a_removed_name_may_come_back() -> None:
    written = (operation(Kind.CREATE), *sync(FOLDER), operation(Kind.UNLINK))
    assert left_of(*written) == {(("log.aof", b""),), ()}
    assert left_of(*written, *sync(FOLDER)) == {()}
