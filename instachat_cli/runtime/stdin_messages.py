"""Standard input as requests that create messages: one message per line, streamed.

Only "\\n" ends a line; the last line may lack it. Memory is bounded by one read and one chunk, however long a
line is. When the producer pauses, the lines read so far are accepted without waiting for it.
"""

import os
import select
import stat
from collections.abc import Callable, Iterator

from backend.domain.errors import Invalid
from backend.domain.model import MAX_BATCH, MAX_TEXT, NewMessage, checked_message
from backend.ingest.requests import AcceptRequest
from instachat_cli.runtime.bulk_create import RequestChunk

READ_BYTES = 1 << 18
CHUNK_BYTES = 1 << 20  # of text per request, which bounds the time of its acceptance
PAUSE_MILLISECONDS = 50
MAX_LINE_BYTES = 4 * MAX_TEXT  # UTF-8 takes four bytes at most
TOO_LONG_MESSAGE = f"the text of a message has more than {MAX_TEXT:,} characters"


def size(fd: int) -> int | None:
    """The size of a regular file in bytes; None for a pipe or a terminal."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def chunks(
    fd: int, token: str, chat: int, new_message: Callable[[str], NewMessage]
) -> Iterator[RequestChunk]:
    """Requests that create a message per line; `new_message` makes it of the line's text.

    At the first invalid line: yields the lines before it, then raises Invalid with its number.
    """
    number = read = 0  # lines and bytes so far
    for lines in _read_batches(fd):
        read += sum(map(len, lines)) + len(lines)
        try:
            messages = list(map(new_message, _decode_lines(lines)))
            request = AcceptRequest.messages(token, chat, messages)
        except Invalid:  # the line is looked for only now, so that valid lines are checked once
            good, fault = _split_at_first_bad(lines, new_message)
            if good:
                yield RequestChunk(AcceptRequest.messages(token, chat, good), len(good), read)
            raise Invalid(f"line {number + len(good) + 1}: {fault}") from None
        number += len(lines)
        yield RequestChunk(request, len(lines), read)


def _decode_lines(lines: list[bytes]) -> list[str]:
    if max(map(len, lines)) > MAX_LINE_BYTES:
        raise Invalid(TOO_LONG_MESSAGE)
    try:
        return b"\n".join(lines).decode().split("\n")
    except UnicodeDecodeError:
        raise Invalid("not valid UTF-8") from None


def _split_at_first_bad(
    lines: list[bytes], new_message: Callable[[str], NewMessage]
) -> tuple[list[NewMessage], str]:
    """The messages before the first invalid line, and the fault of that line."""
    good: list[NewMessage] = []
    for line in lines:
        # Such a line may be only a beginning, and end within a character.
        if len(line) > MAX_LINE_BYTES:
            return good, TOO_LONG_MESSAGE
        try:
            good.append(checked_message(new_message(line.decode())))
        except UnicodeDecodeError as error:
            return good, f"not valid UTF-8 at byte {error.start + 1}"
        except Invalid as error:
            return good, error.message
    raise AssertionError("no line is invalid")


def _read_batches(fd: int) -> Iterator[list[bytes]]:
    """Batches of lines; a batch ends when it is full, or when no input is available."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    batch: list[bytes] = []
    batch_bytes = 0
    rest = b""
    while True:
        if batch and not poll.poll(PAUSE_MILLISECONDS):
            yield batch
            batch, batch_bytes = [], 0
        data = os.read(fd, READ_BYTES)
        *lines, rest = (rest + data).split(b"\n")
        lines = [line.removesuffix(b"\r") for line in lines]
        too_long = len(rest) > MAX_LINE_BYTES
        if rest and (too_long or not data):
            lines.append(rest)
        for line in lines:
            batch.append(line)
            batch_bytes += len(line)
            if len(batch) == MAX_BATCH or batch_bytes > CHUNK_BYTES:
                yield batch
                batch, batch_bytes = [], 0
        if too_long or not data:
            if batch:
                yield batch
            return
