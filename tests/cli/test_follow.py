"""`messages list --follow`: prints what becomes of each number, and what changes, until Ctrl-C."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
def token(core: Backend) -> str:
    """The token of an application in whose chat 1 three messages are stored, and the second deleted."""
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token))
    send(core, token, "one", "two", "three")
    core.catalog.messages.delete(token, 1, 2)
    return token


def send(core: Backend, token: str, *texts: str) -> None:
    """Create messages, and store them."""
    core.acceptor.accept(AcceptRequest.messages(token, 1, texts))
    core.drainer.drain_all()


@contextmanager
def following(cli: Cli, *words: object) -> Iterator["subprocess.Popen[bytes]"]:
    """The command on chat 1 of an application."""
    process = cli.start(
        "messages", "list", *words, "--follow", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def printed(process: "subprocess.Popen[bytes]", count: int) -> list[Any]:
    """The next lines that it prints."""
    assert process.stdout
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_it_prints_each_number_and_each_change_until_ctrl_c(
    cli: Cli, core: Backend, token: str
) -> None:
    """Messages as a list prints them; everything else has an `event`. Ctrl-C ends it with 130."""
    with following(cli, token, 1, "--after", 0) as process:
        first, gone, third = printed(process, 3)
        assert gone == {"event": "gone", "number": 2, "reason": "removed"}
        assert [first, third] == json.loads(cli("messages", "list", token, 1, "-o", "json").out)
        send(core, token, "four")
        assert printed(process, 1)[0]["text"] == "four"
        core.catalog.messages.edit(token, 1, 3, {"text": "another"})
        (edited,) = printed(process, 1)
        assert (edited["event"], edited["number"], edited["text"]) == ("edited", 3, "another")
        core.catalog.messages.delete(token, 1, 1)
        assert printed(process, 1) == [{"event": "deleted", "number": 1}]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("option", "value", "texts"),
    [("--last", 1, ["three"]), ("--since", "1h", ["one", "three"])],
)
def test_it_begins_behind_the_selected_messages(
    cli: Cli, core: Backend, token: str, option: str, value: object, texts: list[str]
) -> None:
    """`--last` and `--since` print these first. The deletion of the chat ends it with 0."""
    with following(cli, token, 1, option, value) as process:
        assert [line["text"] for line in printed(process, len(texts))] == texts
        send(core, token, "four")
        assert [line["text"] for line in printed(process, 1)] == ["four"]
        core.catalog.chats.delete(token, 1, cascade=True)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, b"")
    assert b"deleted" in err


def test_what_can_not_be_followed_is_refused(cli: Cli, token: str) -> None:
    """An unknown chat, and options that end a list."""
    assert cli("messages", "list", token, 2, "--follow").code == 3
    for option in ("--before", "--around", "--limit"):
        assert cli("messages", "list", token, 1, "--follow", option, 2).code == 2
    assert cli("messages", "list", token, 1, "--follow", "--until", "2h").code == 2
