"""Runs docs/backup.md: what is restored has the same messages, and numbers go on, none is given twice."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from string import Template

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.cli.conftest import Cli, fork_server
from tests.conftest import Engines
from tests.support.engines import wheel_postgres
from tests.support.fork_server import ForkServer

ROOT = Path(__file__).parents[2]
__all__ = ["fork_server"]  # the fixture
PAGE = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
TEXTS = ["one", "two", "three", "four"]


def test_both_kinds_of_backup_are_restored_and_numbers_go_on(
    engines: Engines, fork_server: ForkServer, tmp_path: Path
) -> None:
    """Also those of messages and chats that were deleted, and were the highest."""
    original = engines.settings()
    with open_backend(original) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token, 3))
        core.acceptor.accept(AcceptRequest.messages(token, 1, TEXTS))
        core.drainer.drain_all()
        core.catalog.messages.delete(token, 1, len(TEXTS))
        core.catalog.chats.delete(token, 3)
        core.drainer.drain_all()
    run(fork_server, BLOCKS["backup"], original, tmp_path)

    dumped = empty_installation(engines)
    variables = {"RESTORED_DATABASE_URL": str(dumped.database_url)}
    run(fork_server, BLOCKS["dump"], dumped, tmp_path, **variables)
    check_goes_on(dumped, token)

    imported = empty_installation(engines)
    variables = {
        "EMPTY_DATABASE_URL": str(imported.database_url),
        "EMPTY_REDIS_URL": str(imported.redis_url),
    }
    run(fork_server, BLOCKS["export"], original, tmp_path, **variables)
    check_goes_on(imported, token)
    assert set(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)) == set(BLOCKS.values())


def empty_installation(engines: Engines) -> Settings:
    """A database without tables, and an empty Redis."""
    return Settings(database_url=engines.bare_database(), redis_url=engines.redis_database())


def run(
    fork_server: ForkServer, script: str, settings: Settings, folder: Path, **variables: str
) -> None:
    """Run commands of the page in a folder, a line at a time, on these settings and PostgreSQL's programs."""
    cli = Cli(fork_server, database_url=settings.database_url, redis_url=settings.redis_url)
    environment = cli.env | variables | {"PATH": f"{wheel_postgres()}:{os.environ['PATH']}"}
    for line in script.splitlines():
        program, *words = shlex.split(Template(line).substitute(environment), comments=True)
        if program == "export":
            environment |= dict(word.split("=", 1) for word in words)
        elif program == "instachat":
            files = [str(folder / word) if word.endswith(".jsonl") else word for word in words]
            done = cli(*files, env=environment)
            assert done.code == 0, (line, done.out, done.err)
        else:
            subprocess.run([program, *words], cwd=folder, env=environment, check=True)


def check_goes_on(settings: Settings, token: str) -> None:
    """What was stored is there, what comes gets the next numbers, and the stores agree."""
    with open_backend(settings) as core:
        assert read(core, token) == TEXTS[:3]
        assert core.acceptor.accept(AcceptRequest.messages(token, 1, ["five"])).first == 5
        assert core.acceptor.accept(AcceptRequest.chats(token)).first == 4
        core.drainer.drain_all()
        assert read(core, token) == [*TEXTS[:3], "five"]
        assert list(core.reconciler.begin(token).findings()) == []


def read(core: Backend, token: str) -> list[str]:
    return [message.text for message in core.catalog.messages.list(token, 1)]
