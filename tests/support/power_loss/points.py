"""Cuts the power at points of a recording, starts servers on what is left, and looks for each answer."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from redis import Redis

from backend.domain.events import MessagesCreated, unpack
from tests.support.engines import RedisServer
from tests.support.power_loss.disk import write_files
from tests.support.power_loss.recording import Answer, Recording
from tests.support.power_loss.trace import Kind
from tests.support.scratch import scratch_folder

Messages = dict[tuple[str, int, int], str]
"""Texts by their token, chat and number."""

ReadMessages = Callable[[Sequence[Path]], Messages]
"""All messages of servers on the files in these folders. RuntimeError if one does not start, ValueError if a
message can't be read."""

OF_NAMES = (Kind.CREATE, Kind.RENAME, Kind.UNLINK, Kind.TRUNCATE)


def choose_points(recording: Recording, count: int, dice: random.Random) -> Sequence[int]:
    """Where to cut: behind so many steps. A half of the points is near changes of names.

    Rewriting the log changes names, and a few points chosen from all steps would miss that.
    """
    begin = _first_answered_step(recording)
    everywhere = range(begin, len(recording.steps) + 1)
    near = {
        place + distance
        for place, step in enumerate(recording.steps)
        if step.operation.kind in OF_NAMES
        for distance in range(5)
    }.intersection(everywhere)
    chosen = set(dice.sample(sorted(near), min(len(near), count // 2)))
    rest = [place for place in everywhere if place not in chosen]
    return sorted(chosen.union(dice.sample(rest, min(len(rest), count - len(chosen)))))


def lost_answers(
    recording: Recording, points: Sequence[int], dice: random.Random, read: ReadMessages
) -> Iterator[str]:
    """What is missing or torn after a power loss at each of these points, and servers that do not start."""
    done = 0
    for point in points:
        for nth, operation in recording.steps[done:point]:
            recording.disks[nth].apply(operation)
        done = point
        left = scratch_folder("power")
        try:
            found = read([_cut(recording, nth, dice, left) for nth in range(len(recording.disks))])
        except (RuntimeError, ValueError) as error:
            yield f"at {point}: {error}"
            continue
        finally:
            shutil.rmtree(left, ignore_errors=True)
        yield from (f"at {point}: {each}" for each in _missing(recording, point, found))


def _first_answered_step(recording: Recording) -> int:
    """The first step after the first answer: before it, nothing can be lost."""
    first = min(answer.at for answer in recording.answers)
    return next(nth for nth, step in enumerate(recording.steps, 1) if step.operation.at > first)


def _cut(recording: Recording, nth: int, dice: random.Random, parent: Path) -> Path:
    folder = parent / f"{nth}"
    folder.mkdir()
    write_files(recording.disks[nth].lose_power(dice), recording.folders[nth], folder)
    return folder


def _missing(recording: Recording, point: int, found: Messages) -> Iterator[str]:
    steps = recording.steps
    cut_at = steps[point].operation.at if point < len(steps) else None
    for answer in recording.answers:
        present = sum(found.get(key) == text for key, text in _messages(answer))
        if present == len(answer.texts):
            continue
        if cut_at is None or answer.at < cut_at:
            yield f"{present} of {len(answer.texts)} answered messages from {answer.first} on are there"
        elif present:
            yield f"{present} of the {len(answer.texts)} messages of a request are there"


def _messages(answer: Answer) -> Iterator[tuple[tuple[str, int, int], str]]:
    for number, text in enumerate(answer.texts, answer.first):
        yield (answer.token, answer.chat, number), text


def read_log(binary: Path, folders: Sequence[Path]) -> Messages:
    """The messages in the log of a Redis. See ReadMessages."""
    (folder,) = folders
    server = RedisServer(binary, folder=folder)
    server.start()
    try:
        found: Messages = {}
        with Redis(port=server.port) as client:
            for key in list(client.scan_iter(match="instachat:*:log", count=1_000)):
                for _, fields in client.xrange(key):
                    event = unpack(fields[b"e"])
                    if isinstance(event, MessagesCreated):
                        for number, text in enumerate(event.messages, event.first):
                            assert isinstance(text, str)
                            found[event.token, event.chat, number] = text
        return found
    finally:
        server.kill()


def count_kinds(recording: Recording) -> Counter[str]:
    """How often each kind of operation was made."""
    return Counter(step.operation.kind.name for step in recording.steps)
