"""Ctrl-C while a progress bar is drawn: exit code 130, what was done, no traceback, and a bar that fits.

Each command is held where it can't go on, so that it is in the middle of its work however fast it is.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.cells import cell_len

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli, Terminal
from tests.cli.test_terminal import BAR, CTRL_C, ESCAPES, program
from tests.conftest import Engines
from tests.support.fork_server import ForkServer

MESSAGES = 700  # deletions have 500 in a transaction


class Held(NamedTuple):
    """A command, what holds it, the text beside its bar then, and what it says after Ctrl-C."""

    command: str
    hold: Callable[[Backend, str, Path], AbstractContextManager[None]]
    bar: str
    says: str


@contextmanager
def locked(core: Backend, statement: str, *values: object) -> Iterator[None]:
    """Hold what the statement locks."""
    with core.database.engine.connect() as holder:
        holder.exec_driver_sql(statement, values)
        yield


def last_message(core: Backend, token: str, _: Path) -> AbstractContextManager[None]:
    """The row of the application's last message is locked."""
    statement = (
        "SELECT 1 FROM message WHERE number = %s AND chat_id IN (SELECT c.id FROM chat c"
        " JOIN application a ON a.id = application_id WHERE a.token = %s) FOR UPDATE"
    )
    return locked(core, statement, MESSAGES, token)


@contextmanager
def undrained(core: Backend, token: str, _: Path) -> Iterator[None]:
    """The shard is locked, and has something that is not stored."""
    shard = core.counters.shard(token)
    with locked(core, "SELECT 1 FROM shard WHERE number = %s FOR UPDATE", shard):
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["waits"]))
        yield


@contextmanager
def unread(_: Backend, __: str, folder: Path) -> Iterator[None]:
    """Nobody reads the pipe that the command writes."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield
    os.close(reader)


def free(_: Backend, __: str, ___: Path) -> AbstractContextManager[None]:
    """It has enough to do."""
    return nullcontext()


HELD = [
    Held("reconcile", undrained, "0 keys", "so far: compared 0 applications"),
    Held("export {folder}/pipe", unread, "0 lines", "interrupted"),
    Held(
        "messages delete {token} 1 --from 1 --yes",
        last_message,
        "500 messages deleted",
        "500 messages deleted so far: the same command deletes the rest",
    ),
    Held(
        "purge --older-than 0s --app {token} --yes",
        last_message,
        "500 messages deleted",
        "500 messages deleted so far",
    ),
    Held(
        "chats delete {token} 1 --cascade --yes", last_message, "0 messages deleted", "is deleted"
    ),
    Held("apps delete {token} --cascade --yes", last_message, "0 messages deleted", "is deleted"),
    Held("chats create {token} --count 9000000", free, "[1-9][0-9,]* chats", "accepted: "),
    Held("reshard 65", undrained, "[0-9]+ applications?", "done. `instachat reshard 65` continues"),
]


@pytest.fixture(scope="module")
def core(engines: Engines) -> Iterator[Backend]:
    """An installation for this file."""
    with open_backend(engines.installation()) as core:
        yield core


@pytest.mark.parametrize(
    ("held", "columns"),
    [
        pytest.param(held, (80, 40, 200)[place % 3], id=held.command.partition(" {")[0])
        for place, held in enumerate(HELD)
    ],
)
def test_ctrl_c_in_the_middle_says_what_was_done(
    fork_server: ForkServer, core: Backend, tmp_path: Path, held: Held, columns: int
) -> None:
    """However wide the terminal is."""
    cli: Cli = program(fork_server, core.settings)
    token = core.catalog.applications.create("busy").token
    core.acceptor.accept(AcceptRequest.chats(token))
    texts = ["x" * 200] * MESSAGES
    core.acceptor.accept(AcceptRequest.messages(token, 1, texts))
    core.drainer.drain_all()
    words = held.command.format(token=token, folder=tmp_path).split()
    with held.hold(core, token, tmp_path):
        terminal = Terminal(cli, *words, columns=columns)
        wait_for_bar(terminal, held.bar)
        terminal.type(CTRL_C)
    assert terminal.end() == 130, terminal.shown
    shown = ESCAPES.sub("", terminal.shown)
    assert held.says in " ".join(shown.split()), shown
    bars = [line for line in re.split("[\r\n]+|\\^C", shown) if re.search(BAR, line)]
    assert [line for line in bars if cell_len(line) > columns] == []


def wait_for_bar(terminal: Terminal, text: str) -> None:
    """Return once the bar has that text beside it."""
    pattern = re.compile(text + BAR)
    terminal.wait_until_shown(lambda shown: pattern.search(ESCAPES.sub("", shown)) is not None)
