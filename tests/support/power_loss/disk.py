"""A disk on which operations are made one after the other, and what a power loss may leave of it.

What is synced stays: the content of a file by a synchronization of the file, its name by one of its folder.
Of what is not, a power loss keeps nothing, all, or some: of a file that is appended to a beginning, of any
other file some of the writes. An appended write may be torn. The size of a file that is appended to covers no
bytes that were not written, and the changes of a folder reach the disk in their order, as with ext4's ordered
mode or XFS. Folders are made before they matter, so they are always there.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tests.support.power_loss.trace import Kind, Operation

BLOCK_BYTES = 4_096
_How = Callable[[random.Random, int], int]
"""How many of so many changes are kept."""


class _File:
    """A file: what is synced of it, and what was done to it since."""

    def __init__(self, content: bytes = b"") -> None:
        self.synced = bytearray(content)
        self.changes: list[_Change] = []
        self._size = len(content)

    def change(self, operation: Operation) -> None:
        """Write to it, cut it, or extend it."""
        if operation.kind is not Kind.WRITE:
            offset = operation.size
        elif operation.offset is None:
            offset = self._size
        else:
            offset = operation.offset
        is_append = operation.kind is Kind.WRITE and offset == self._size
        if operation.kind is Kind.TRUNCATE and offset == self._size:
            return
        self.changes.append(_Change(operation.kind, offset, operation.data, is_append))
        end = offset + len(operation.data)
        self._size = end if operation.kind is Kind.TRUNCATE else max(self._size, end)

    def sync(self, count: int) -> None:
        """Keep the first changes."""
        for change in self.changes[:count]:
            change.apply(self.synced)
        del self.changes[:count]

    def content_after_loss(self, how: "_How", dice: random.Random) -> bytes:
        """What is synced, and some of the changes since."""
        content = bytearray(self.synced)
        is_log = all(change.is_append for change in self.changes)
        if how is _keep_some and not is_log:
            pieces = (piece for change in self.changes for piece in change.pieces())
            kept = [piece for piece in pieces if dice.random() < 0.5]
        else:
            kept = self.changes[: how(dice, len(self.changes))]
            if how is _keep_some and len(kept) < len(self.changes):
                torn = self.changes[len(kept)]
                size = dice.randint(0, len(torn.data))
                kept.append(torn._replace(data=torn.data[:size]))
        for change in kept:
            change.apply(content)
        return bytes(content)


class _Change(NamedTuple):
    kind: Kind
    offset: int
    data: bytes
    is_append: bool

    def pieces(self) -> Iterator["_Change"]:
        """Those that reach the disk one by one: its blocks."""
        if self.kind is not Kind.WRITE:
            yield self
        for start in range(0, len(self.data), BLOCK_BYTES):
            data = self.data[start : start + BLOCK_BYTES]
            yield self._replace(offset=self.offset + start, data=data)

    def apply(self, content: bytearray) -> None:
        """Change a content; what is missing before the offset is zeros."""
        if self.offset > len(content):
            content.extend(bytes(self.offset - len(content)))
        if self.kind is Kind.TRUNCATE:
            del content[self.offset :]
        else:
            content[self.offset : self.offset + len(self.data)] = self.data


class _Folder:
    """A folder: its synced entries, and the changes since. Each sets some names, or removes them (None)."""

    def __init__(self) -> None:
        self.synced: dict[str, _File] = {}
        self.changes: list[Mapping[str, _File | None]] = []
        self.entries: dict[str, _File] = {}

    def change(self, names: Mapping[str, _File | None]) -> None:
        """Change entries, all of them or none."""
        self.changes.append(names)
        _set_names(self.entries, names)

    def sync(self, count: int) -> None:
        """Keep the first changes."""
        for names in self.changes[:count]:
            _set_names(self.synced, names)
        del self.changes[:count]

    def entries_with(self, keep: int) -> dict[str, _File]:
        """The synced entries with the first `keep` changes."""
        entries = dict(self.synced)
        for names in self.changes[:keep]:
            _set_names(entries, names)
        return entries


def _set_names(entries: dict[str, _File], names: Mapping[str, _File | None]) -> None:
    for name, file in names.items():
        if file is None:
            entries.pop(name, None)
        else:
            entries[name] = file


class Disk:
    """Files and folders. At first it has the files below `origin`, if that is given; these are synced."""

    def __init__(self, origin: Path | None = None) -> None:
        self._folders: dict[PurePosixPath, _Folder] = {}
        for path in () if origin is None else origin.rglob("*"):
            if path.is_file():
                name = PurePosixPath(path)
                folder, file = self._folder(name), _File(path.read_bytes())
                folder.synced[path.name] = folder.entries[path.name] = file
        self._syncs: dict[tuple[int, str], tuple[_File | _Folder, int]] = {}

    def apply(self, operation: Operation) -> None:
        """Make the next operation."""
        path = PurePosixPath(operation.path)
        match operation.kind:
            case Kind.CREATE:
                if path.name not in self._folder(path).entries:
                    self._folder(path).change({path.name: _File()})
            case Kind.WRITE | Kind.TRUNCATE | Kind.EXTEND:
                self._file(path).change(operation)
            case Kind.RENAME:
                self._rename(path, PurePosixPath(operation.new_path))
            case Kind.UNLINK:
                self._folder(path).change({path.name: None})
            case Kind.BEGIN_SYNC:
                subject: _File | _Folder = self._folder(path).entries.get(path.name) or (
                    self._folders.setdefault(path, _Folder())
                )
                self._syncs[operation.process, operation.path] = subject, len(subject.changes)
            case Kind.END_SYNC:
                subject, count = self._syncs.pop((operation.process, operation.path))
                subject.sync(count)

    def lose_power(self, dice: random.Random) -> dict[PurePosixPath, bytes]:
        """The files that may be left, by their paths."""
        left: dict[PurePosixPath, bytes] = {}
        how = dice.choice((_keep_nothing, _keep_all, _keep_some))
        for path, folder in self._folders.items():
            for name, file in folder.entries_with(how(dice, len(folder.changes))).items():
                left[path / name] = file.content_after_loss(how, dice)
        return left

    def _rename(self, path: PurePosixPath, new_path: PurePosixPath) -> None:
        new = {new_path.name: self._file(path)}
        if new_path.parent == path.parent:
            self._folder(path).change({path.name: None, **new})
        else:  # each folder is synced by itself
            self._folder(new_path).change(new)
            self._folder(path).change({path.name: None})

    def _folder(self, path: PurePosixPath) -> _Folder:
        return self._folders.setdefault(path.parent, _Folder())

    def _file(self, path: PurePosixPath) -> _File:
        return self._folder(path).entries[path.name]


def write_files(left: Mapping[PurePosixPath, bytes], origin: Path, folder: Path) -> None:
    """Write what is left below `origin` into another folder, which has its folders."""
    for path, content in left.items():
        target = folder / path.relative_to(origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _keep_nothing(_: random.Random, __: int) -> int:
    return 0


def _keep_all(_: random.Random, count: int) -> int:
    return count


def _keep_some(dice: random.Random, count: int) -> int:
    return dice.randint(0, count)
