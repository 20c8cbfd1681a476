"""The operations on files of traced processes, as strace writes them down.

Only what the engines do to their files is understood. Any other operation on the files is an error, so that
none is missed.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

MAX_WRITE_BYTES = 1 << 26
UNDERSTOOD = "openat,write,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,rename,unlink,lseek"
# Other ways to change files: an error, should a file of the folder be among their arguments.
REFUSED = (
    "creat,open,writev,pwritev2,truncate,sendfile,copy_file_range,link,renameat,renameat2,unlinkat"
)
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))")
_HEX = r"(?:\\x[0-9a-f]{2})*"
_DESCRIPTOR = re.compile(rf"\w+<({_HEX})>(\(deleted\))?")
_RESULT = re.compile(r"-?\d+")
_UNFINISHED = "<unfinished ...>"


class Kind(Enum):
    """What an operation does."""

    CREATE = auto()
    TRUNCATE = auto()
    EXTEND = auto()
    WRITE = auto()
    BEGIN_SYNC = auto()
    END_SYNC = auto()
    RENAME = auto()
    UNLINK = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on a file or a folder. `at` is a time of `time.time` before it, and after earlier ones.

    `process` tells the synchronizations of several threads apart. Data are written at an offset; without one,
    at the end of the file.
    """

    kind: Kind
    at: float
    process: int
    path: str
    data: bytes = b""
    offset: int | None = None
    size: int = 0
    new_path: str = ""


class UnknownOperation(Exception):
    """The trace has an operation on the files that is not understood."""


def strace_command(output: Path) -> list[str]:
    """What precedes a command, so that its operations are written to a file. The process stays the child."""
    strace = shutil.which("strace")
    assert strace, "strace is not installed"
    return [
        *(strace, "-D", "-f", "--seccomp-bpf", "-y", "-xx", "-ttt", "-e", "signal=none"),
        *("-s", str(MAX_WRITE_BYTES), "-o", str(output)),
        *("-e", f"trace={UNDERSTOOD},{REFUSED}"),
    ]


def read_trace(output: Path, folder: Path) -> Iterator[Operation]:
    """The operations on files in the folder where a process works, but for those on its `log`."""
    reader = _Reader(folder)
    with output.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            yield from reader.read(line.rstrip("\n"))


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}"
        self._unfinished: dict[tuple[int, str], str] = {}
        self._offsets: dict[str, int] = {}
        """Where the next `write` goes, of each file that was not opened to append."""

    def read(self, line: str) -> Iterator[Operation]:
        match = _LINE.match(line)
        if match is None:
            return
        process, at = int(match[1]), float(match[2])
        if match[5]:
            before = self._unfinished.pop((process, match[5]), None)
            if before is not None:
                yield from self._finish(process, at, match[5], before, match[6])
            return
        name, rest = match[3], match[4]
        if rest.endswith(_UNFINISHED):
            self._unfinished[process, name] = rest
        elif (_result(rest) or 0) < 0:
            return
        yield from self._operations(process, at, name, rest)

    def _operations(self, process: int, at: float, name: str, rest: str) -> Iterator[Operation]:
        """The operations of a call that was not refused, or is not finished yet."""
        if name in REFUSED.split(","):
            texts = [text for text, _ in _DESCRIPTOR.findall(rest)] + _texts(rest)
            if any(self._is_in_folder(_decode(text).decode(errors="replace")) for text in texts):
                raise UnknownOperation(f"{name}({rest[:200]}")
            return
        if name in ("rename", "unlink", "openat"):
            paths = [self._absolute(_decode(text).decode()) for text in _texts(rest)]
            if self._is_in_folder(paths[0]):
                yield from self._change_names(process, at, name, paths, rest)
        elif (path := self._path(rest)) is not None:
            yield from self._change_file(process, at, name, path, rest)

    def _change_names(
        self, process: int, at: float, name: str, paths: list[str], rest: str
    ) -> Iterator[Operation]:
        path, *others = paths
        match name:
            case "rename":
                if path in self._offsets:
                    self._offsets[others[0]] = self._offsets.pop(path)
                yield Operation(Kind.RENAME, at, process, path, new_path=others[0])
            case "unlink":
                yield Operation(Kind.UNLINK, at, process, path)
            case _:
                self._offsets.pop(path, None)
                if "O_APPEND" not in rest:
                    self._offsets[path] = 0
                if "O_CREAT" in rest:
                    yield Operation(Kind.CREATE, at, process, path)
                if "O_TRUNC" in rest:
                    yield Operation(Kind.TRUNCATE, at, process, path)

    def _change_file(
        self, process: int, at: float, name: str, path: str, rest: str
    ) -> Iterator[Operation]:
        result = _result(rest)
        match name:
            case "write" | "pwrite64" | "pwritev":
                data = b"".join(map(_decode, _texts(rest)))
                data = data[:result]
                if name == "write":
                    offset = self._offsets.get(path)
                    if offset is not None:
                        self._offsets[path] = offset + len(data)
                else:
                    offset = int(_last_arguments(rest, 1)[0])
                yield Operation(Kind.WRITE, at, process, path, data, offset)
            case "fsync" | "fdatasync":
                yield Operation(Kind.BEGIN_SYNC, at, process, path)
                if result is not None:
                    yield Operation(Kind.END_SYNC, at, process, path)
            case "ftruncate":
                size = int(_last_arguments(rest, 1)[0])
                yield Operation(Kind.TRUNCATE, at, process, path, size=size)
            case "fallocate":
                mode, offset_, length = _last_arguments(rest, 3)
                if mode != "0":
                    raise UnknownOperation(f"{name}({rest[:200]}")
                yield Operation(Kind.EXTEND, at, process, path, size=int(offset_) + int(length))
            case "lseek":
                if result is not None and path in self._offsets:
                    self._offsets[path] = result
            case _:
                raise UnknownOperation(f"{name}({rest[:200]}")

    def _finish(
        self, process: int, at: float, name: str, before: str, rest: str
    ) -> Iterator[Operation]:
        """What a call did that was not finished in its first line. Others have had their effect there."""
        path, result = self._path(before), _result(rest)
        if path is None or result is None or result < 0:
            return
        if name in ("fsync", "fdatasync"):
            yield Operation(Kind.END_SYNC, at, process, path)
        elif name == "lseek" and path in self._offsets:
            self._offsets[path] = result

    def _path(self, rest: str) -> str | None:
        """The path of the descriptor that is the first argument; None if it is of no file in the folder."""
        found = _DESCRIPTOR.match(rest)
        if found is None or found[2]:
            return None
        path = _decode(found[1]).decode(errors="replace")
        return path if self._is_in_folder(path) else None

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._folder}/{path}"

    def _is_in_folder(self, path: str) -> bool:
        is_below = path == self._folder or path.startswith(f"{self._folder}/")
        return is_below and path != f"{self._folder}/log"


def _texts(rest: str) -> list[str]:
    """The quoted arguments of a call. They have no quotes inside."""
    return rest.split('"')[1::2]


def _result(rest: str) -> int | None:
    """What a call has returned; None if it is not finished."""
    _, is_finished, result = rest.rpartition(" = ")
    found = _RESULT.match(result) if is_finished else None
    return int(found[0]) if found else None


def _last_arguments(rest: str, count: int) -> list[str]:
    """The last arguments of a call, which are plain."""
    arguments = rest.removesuffix(_UNFINISHED).rpartition(") = ")[0] or rest
    return [each.strip(" )") for each in arguments.removesuffix(_UNFINISHED).split(",")[-count:]]


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
