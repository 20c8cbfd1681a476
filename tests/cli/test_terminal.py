"""Every command on terminals of 80, 40 and 200 columns: its exit code, and output that fits."""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.cells import cell_len

from backend.bootstrap import Backend, open_backend
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.types import Creation
from instachat_cli.console.progress import Progress
from loadtest.report.result import dumps
from tests.cli import test_up
from tests.cli.conftest import ROOT, Cli, Terminal
from tests.cli.test_help import COMMANDS
from tests.conftest import Engines
from tests.load.test_parts import RESULT
from tests.support.engines import RedisServer, valkey_binary
from tests.support.fork_server import ForkServer

COLUMNS = (80, 40)
WIDE = 200  # where tables and bars may look different, but not prose
CTRL_C, CTRL_D = "\x03", "\x04"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TALK = ("note: ", "warning: ", "error: ", "hint: ")
BAR = " [━╺╸]"
LINE_UP = "\x1b[1A\x1b[2K"
TEXTS = ["Good morning", "صباح الخير، كيف حالك اليوم؟ " * 8, "你好世界" * 40, "morning " * 30]


class Case(NamedTuple):
    """How a command is run, and what it must show.

    `words` are the arguments; names in braces are attributes of `World`, here and in `shows`. Each of
    `typed` is a text to wait for, and what is typed then. `bar` is a pattern of the text beside the
    progress bar. With `prose` the terminal may wrap lines. With `own` the command gets empty engines.
    """

    words: str = ""
    shows: str = ""
    bar: str = ""
    typed: Sequence[tuple[str, str]] = ()
    code: int = 0
    prose: bool = False
    own: bool = False


HELP = Case(shows="Usage: instachat", prose=True)
N = "[1-9][0-9,]*"
YES = [("[y/N] ", "y\n")]
ON_ANOTHER_TERMINAL: Mapping[str, Callable[..., None]] = {
    # It takes 8 seconds, and prints nothing but prose.
    "up": test_up.test_ctrl_c_stops_up_after_everything_is_stored,
}
CASES: Mapping[str, Case] = {
    "": HELP,
    "serve": Case(typed=[("listening on", CTRL_C)], prose=True),
    "worker": Case(typed=[("worker running", CTRL_C)], prose=True),
    "demo": Case(bar="accepted", typed=[("accepted", CTRL_C)], code=130, own=True),
    "migrate": Case(shows="nothing to migrate", prose=True),
    "apps": HELP,
    "apps create": Case("Desk", "token"),
    "apps list": Case("--limit 900", "{token}"),  # there may be more than a terminal shows
    "apps show": Case("{token}", "{token}"),
    "apps rename": Case("{token} Desk", "Desk"),
    "apps retention": Case("{token} 900d", "a worker deletes", typed=YES, prose=True),
    "apps limit": Case("{token} 100/s", "may create 100", prose=True),
    "apps rotate": Case("{token}", "token"),
    "apps delete": Case(
        "{token} --cascade", "deleted", f"{N} messages deleted", typed=YES, prose=True
    ),
    "chats": HELP,
    "chats create": Case("{token} --count 3000", "accepted", f"{N} chats", prose=True),
    "chats list": Case("{token}"),
    "chats show": Case("{token} 1"),
    "chats delete": Case(
        "{token} 1 --cascade", "deleted", f"{N} messages deleted", typed=YES, prose=True
    ),
    "messages": HELP,
    "messages create": Case(
        "{token} 1 -",
        "accepted",
        typed=[("Ctrl-D", "one\ntwo\n"), ("accepted", CTRL_D)],
        prose=True,
    ),
    "messages list": Case("{token} 1", "Good morn"),
    "messages show": Case("{token} 1 2", "صباح الخير"),
    "messages trace": Case("{token} 1 2", "message 2 of chat 1: stored"),
    "messages edit": Case("{token} 1 1 evening", "evening"),
    "messages delete": Case("{token} 1 1", "deleted", typed=YES, prose=True),
    "search": Case("{token} 1 morning"),
    "purge": Case("--older-than 1000d", "deleted 0 messages", typed=YES, prose=True),
    "erase": Case("", "rewrite its file: done", typed=YES, prose=True),
    "reindex": Case(shows="nothing to build", prose=True),
    "export": Case("{folder}/out.jsonl --app {token}", "exported", f"{N} lines", prose=True),
    "import": Case("{exported}", "imported", f"{N} lines", prose=True),
    "reconcile": Case(shows="0 differences", bar=f"{N} keys"),
    "sync-counters": Case(shows="{token}: chats 0 → 2", prose=True),
    "reshard": Case("64", "moved 0 applications", "[0-9]+ applications?", prose=True),
    "status": Case(shows="not stored yet"),
    "queue": HELP,
    "queue show": Case(shows="waiting jobs"),
    "queue pause": Case(shows="paused", prose=True),
    "queue resume": Case(shows="resumed", prose=True),
    "dead": HELP,
    "dead list": Case(shows="{letter}"),
    "dead show": Case("{letter}", "secret"),
    "dead retry": Case("{letter}", "1 of 1 dead letter", code=1, prose=True),
    "dead purge": Case("{letter}", "deleted", typed=YES, prose=True),
    "audit": HELP,
    "audit list": Case(shows="{change}"),
    "doctor": Case(shows="no worker is running"),
    "adopt-redis": Case(shows="nothing to adopt", prose=True),
    "bench": HELP,
    "bench run": Case("--host {host} --duration 1s", "audit", prose=True),
    "bench compare": Case("{result} {result}", "p50 ms"),
    "bench history": Case("{results}", "p99 ms"),
    "bench ceilings": Case(
        "accept --quick", typed=[("XADD: ", CTRL_C)], code=130, own=True, prose=True
    ),
    "bench growth": Case(
        "--messages 100 --chats 100",
        typed=[("100 messages: ", CTRL_C)],
        code=130,
        own=True,
        prose=True,
    ),
    "config": HELP,
    "config show": Case(shows="(unset)"),
}
MORE: Sequence[tuple[str, Case]] = (
    ("reconcile", Case("--app {token}", "compared 1 application", f"{N} keys")),
    ("reconcile", Case("--app {torn}", "gap_unexplained", f"{N} keys", code=4)),
    ("reconcile", Case("--app {torn} --repair --dry-run", "--repair would", f"{N} keys", code=4)),
    ("status", Case("--watch", typed=[("dead letters", CTRL_C)], code=130)),
    (
        "messages list",
        Case("{token} 1 --last 1 --follow", typed=[("morning ", CTRL_C)], code=130, prose=True),
    ),
    (
        "messages delete",
        Case("{token} 1 --from 2", "deleted", f"{N} messages deleted", typed=YES, prose=True),
    ),
    ("import", Case("-", typed=[("Ctrl-D", CTRL_D)], prose=True)),
)


def store_sample(core: Backend) -> str:
    """Store an application with two chats, the first of which has messages; return its token."""
    token = core.catalog.applications.create("Support desk").token
    core.acceptor.accept(AcceptRequest.chats(token, 2))
    core.acceptor.accept(AcceptRequest.messages(token, 1, TEXTS))
    core.drainer.drain_all()
    return token


class World:
    """The data that commands run on; each item is created when a test names it."""

    def __init__(self, core: Backend, folder: Path, at_end: ExitStack) -> None:
        self.core = core
        self.folder = folder
        self._at_end = at_end

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)

    @cached_property
    def token(self) -> str:
        """An application of its own."""
        return store_sample(self.core)

    @cached_property
    def torn(self) -> str:
        """An application with a message whose row is missing; repaired at the end."""
        with self.core.database.begin() as tx:
            tx.exec_driver_sql(
                "DELETE FROM message WHERE number = 2 AND chat_id IN (SELECT c.id FROM chat c"
                " JOIN application a ON a.id = application_id WHERE token = %s)",
                (self.token,),
            )
        self._at_end.callback(lambda: list(self.core.reconciler.begin(repair=True).findings()))
        return self.token

    @cached_property
    def letter(self) -> str:
        """The ID of a dead letter."""
        shard = self.core.counters.shard(self.token)
        payload = pack_messages(self.token, 2, ["secret\0poison"])
        creation = Creation("messages", Parent(self.token, 2), payload)
        self.core.log.accept(shard, [creation], EntryId(0, 0))
        self.core.drainer.drain_all()
        kept = (kept.letter for kept in self.core.dead_letters.all())
        return next(letter.key for letter in kept if letter.token == self.token)

    @cached_property
    def change(self) -> str:
        """The result of a change of an operator."""
        target = f"{self.token[:8]}… 17 --from 1000000 --to 2000000"
        actor = "administrator@database-1.internal.example (sudo by ann)"
        with self.core.audit_trail.recorded(actor, "messages delete", target) as change:
            change.result, change.counts = "not_confirmed", {"messages": 1_000_001}
        return change.result

    @cached_property
    def exported(self) -> Path:
        """The export of an application that does not exist."""
        file = self.folder / "in.jsonl"
        token = secrets.token_urlsafe(24)
        with self.core.exporter.snapshot(self.token) as snapshot:
            lines = "".join(snapshot.lines())
        file.write_text(lines.replace(self.token, token), encoding="utf-8")
        return file

    @cached_property
    def result(self) -> Path:
        """A load's measurements."""
        file = self.folder / "result.json"
        file.write_text(dumps(RESULT), encoding="utf-8")
        return file

    @cached_property
    def results(self) -> Path:
        """A folder with the measurements of sixteen loads, the last eight of which were slower."""
        made = (
            replace(RESULT, total=replace(RESULT.total, p99_ms=10.0 + place % 3 + 9 * (place // 8)))
            for place in range(16)
        )
        lines = "".join(dumps(result) + "\n" for result in made)
        (self.folder / "results.jsonl").write_text(lines, encoding="utf-8")
        return self.folder

    @cached_property
    def host(self) -> str:
        """The address of a server that a load can be made on."""
        server = self._at_end.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.load_target"],
                cwd=ROOT,
                stdin=subprocess.PIPE,  # the server ends with it
                stdout=subprocess.PIPE,
            )
        )
        assert server.stdout
        return f"http://127.0.0.1:{int(server.stdout.readline())}"


@pytest.fixture(scope="module")
def core(engines: Engines) -> Iterator[Backend]:
    """An installation for this file; it has data before its first test, whichever that is."""
    redis = RedisServer(valkey_binary())
    try:
        redis.start()
        settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
        with open_backend(settings) as core:
            store_sample(core)
            yield core
    finally:
        redis.remove()


@pytest.fixture
def world(core: Backend, tmp_path: Path) -> Iterator[World]:
    """Its things, for one test; the queue is not paused afterwards."""
    with ExitStack() as at_end:
        at_end.callback(core.workers.resume)
        yield World(core, tmp_path, at_end)


def program(fork_server: ForkServer, settings: Settings) -> Cli:
    """The program on these settings."""
    return Cli(
        fork_server,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
    )


def run_and_look(cli: Cli, world: World, command: str, case: Case, columns: int) -> None:
    """Run it on such a terminal, and look at what that has shown."""
    shows = case.shows.format_map(world)
    words = [*command.split(), *case.words.format_map(world).split()]
    terminal = Terminal(cli, *words, columns=columns)
    for text, keys in case.typed:
        terminal.wait_for_text(text)
        terminal.type(keys)
    code = terminal.end()
    shown = terminal.shown.partition("^C")[0]  # an interrupted Rich may draw its last frame twice
    assert code == case.code, shown
    lines = re.split("[\r\n]+", ESCAPES.sub("", shown))
    bars = [line for line in lines if re.search(BAR, line)]
    assert " ".join(shows.split()) in " ".join(shown.split()), shown  # sentences are wrapped
    assert not bars or case.bar, bars
    if case.bar:
        assert any(re.search(case.bar + BAR, line) for line in bars), shown
        assert 2 * LINE_UP not in shown, f"the bar takes more than a line: {shown!r}"
    drawn = bars if case.prose else [line for line in lines if not line.startswith(TALK)]
    assert [line for line in drawn if cell_len(line) > columns] == []


def test_every_command_has_a_case() -> None:
    """A new command needs a case above; a removed one must not have one."""
    assert {*CASES, *ON_ANOTHER_TERMINAL} == {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize(
    ("command", "case", "columns"),
    [
        pytest.param(*pair, columns, id=f"{pair[0]} {pair[1].words}-{columns}".strip())
        for pair in [*CASES.items(), *MORE]
        for columns in (*COLUMNS, *([] if pair[1].prose and not pair[1].bar else [WIDE]))
    ],
)
def test_each_command(
    fork_server: ForkServer, engines: Engines, world: World, command: str, case: Case, columns: int
) -> None:
    """Its exit code is right, it draws its bar, and no table is wider than the terminal."""
    settings = engines.settings() if case.own else world.core.settings
    run_and_look(program(fork_server, settings), world, command, case, columns)


@pytest.mark.parametrize("columns", [80, 60, 40])
@pytest.mark.parametrize("what", ["lines", "messages deleted", "messages compared"])
def test_a_bar_of_millions_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, columns: int
) -> None:
    """The count and the remaining time are never cut; the bar shrinks first, then the rate is left out."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(what, 9_000_000) as progress:
        progress.update(7_654_321, 7_654_321)
    frames = re.split("[\r\n]+", ESCAPES.sub("", capsys.readouterr().err).strip())
    assert max(map(cell_len, frames)) <= columns
    assert re.fullmatch(
        rf"7,654,321 {what} [━╺╸]+ +([0-9,]+/s )?[-0-9]+:[-0-9]+:[-0-9]+", frames[-1]
    )
    assert ("/s" in frames[-1]) == (columns >= 60)


def test_a_line_of_json_stays_one_line_beside_a_bar(fork_server: ForkServer, world: World) -> None:
    """However narrow the terminal is, so that a copied line is valid JSON."""
    cli = program(fork_server, world.core.settings)
    words = ("chats", "create", world.token, "--count", 3000, "-o", "jsonl")
    terminal = Terminal(cli, *words, columns=20)
    assert terminal.end() == 0
    lines = re.split("[\r\n]+", ESCAPES.sub("", terminal.shown))
    made = [json.loads(line) for line in lines if line.startswith("{")]
    assert [numbers["last"] for numbers in made] == [1_002, 2_002, 3_002]


@pytest.mark.parametrize("moment", [0.05, 0.2])
def test_ctrl_c_while_the_server_starts(
    fork_server: ForkServer, world: World, moment: float
) -> None:
    """Ctrl-C also reaches the server process, which may still be importing; neither shows a traceback."""
    terminal = Terminal(program(fork_server, world.core.settings), "serve")
    terminal.wait_for_text("listening on")
    time.sleep(moment)
    terminal.type(CTRL_C)
    assert terminal.end() == 0
