"""Shares the fixtures, the plan, the clock and the records between Locust's processes, by Locust's messages.

The process without a master creates the fixtures when the test starts, and sends them to the workers before
they spawn users. Workers return their records with Locust's reports. Without `--folder` nothing is recorded,
and only Locust's own statistics are available.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import gevent.socket
from locust import events, runners
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.adapter.adapter import InvalidAdapter, ServerAdapter, default_adapter, load
from loadtest.corpus import fixtures
from loadtest.corpus.fixtures import Fixtures, ScenarioLayout
from loadtest.corpus.preload import NO_PRELOAD, Preload
from loadtest.corpus.texts import Marks
from loadtest.errors import CouldNotRun, Unreachable, Unusable
from loadtest.recording import Recorder, append_records
from loadtest.report.result import LoadModel
from loadtest.run.folder import ADAPTER, PLAN, PRELOAD, START_INFO, STOP, UNREACHABLE, UNUSABLE
from loadtest.run.needs import lacking
from loadtest.run.plan import Plan, Stage
from loadtest.web import ApiClient

REPORT_SECONDS = 1.0
START_DELAY_SECONDS = 0.5  # between the fixtures and the begin, for all workers to receive them
_Thing = TypeVar("_Thing")
logger = logging.getLogger(__name__)

runners.WORKER_REPORT_INTERVAL = REPORT_SECONDS
# Locust's default of three seconds would declare a worker on a busy machine lost.
runners.HEARTBEAT_LIVENESS = 30


class Coordinator:
    """The state of this Locust process."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.recorder = Recorder()
        self.fixtures = Fixtures([], [])
        self.arrivals: Iterator[tuple[int, float]] | None = None
        self.seed = 1
        self.ended = False
        self._begin: float | None = None
        self._index, self._processes = 0, 1
        self._users = 0
        folder = getattr(environment.parsed_options, "folder", None)
        self.folder = Path(folder) if folder else None
        self.plan = self._load_plan()
        self.adapter = self._load_adapter()

    @property
    def now(self) -> float | None:
        """Seconds since the begin of the run; None before the fixtures exist."""
        return None if self._begin is None else time.monotonic() - self._begin

    @property
    def is_over(self) -> bool:
        """Whether users must not start requests any more. Each process decides it by its own clock."""
        planned = self.plan.seconds if self.plan else math.inf
        return self.ended or (self.now or 0.0) >= planned

    def end(self) -> None:
        """Let the users of all processes start no more requests."""
        if not self.ended and isinstance(self.environment.runner, MasterRunner):
            self.environment.runner.send_message("end")
        self.ended = True

    @property
    def marks(self) -> Marks:
        """The marks of the run's texts."""
        return Marks(self.seed, self.adapter.finds_words)

    @property
    def layout(self) -> ScenarioLayout:
        """The layout of the scenario that runs."""
        return self.environment.user_classes[0].layout  # type: ignore[attr-defined,no-any-return]

    def share(self, things: Sequence[_Thing]) -> Sequence[_Thing]:
        """The part of a list that belongs to this process; all processes together have all of it."""
        return things[self._index :: self._processes]

    def next_user_number(self) -> int:
        """A number for a new user, unique among all processes."""
        index = self._users
        self._users += 1
        return index * self._processes + self._index

    def prepare(self) -> None:
        """Create the fixtures and begin. If that fails, Locust ends with UNREACHABLE or UNUSABLE."""
        options, runner = self.environment.parsed_options, self.environment.runner
        assert options
        assert runner
        plan = self.plan
        seed = plan.seed if plan else options.seed
        chats = plan.chats if plan else options.chats
        try:
            if why := lacking(self.adapter, self.environment.user_classes[0].scenario):  # type: ignore[attr-defined]
                raise Unusable(why)
            client = ApiClient(self.environment.host or "", self.adapter)
            created = fixtures.create(client, self.layout.with_chats(chats), seed, self.recorder)
            created = replace(created, preload=self._load_preload())
        except CouldNotRun as error:
            logger.error("%s", error)
            unreachable = isinstance(error, Unreachable)
            self.environment.process_exit_code = UNREACHABLE if unreachable else UNUSABLE
            gevent.spawn(runner.quit)
            gevent.sleep(60)  # `quit` ends this process meanwhile
            return
        start_info = {
            "fixtures": asdict(created),
            "plan": plan.to_json() if plan else None,
            "adapter": self.adapter.data,
            "seed": seed,
            "processes": getattr(runner, "worker_count", 1),
        }
        if isinstance(runner, MasterRunner):
            runner.send_message("fixtures", start_info)
        start = self.begin(start_info)
        if self.folder:
            unfinished = self.folder / f"{START_INFO}.new"
            unfinished.write_text(json.dumps(start_info | {"begin": start}))
            unfinished.replace(self.folder / START_INFO)

    def begin(self, start_info: dict[str, Any]) -> float:
        """Take over the fixtures and start the clock; returns the begin as a value of time.monotonic()."""
        self.fixtures = Fixtures.from_json(start_info["fixtures"])
        self.plan = Plan.from_json(start_info["plan"]) if start_info["plan"] else None
        self.adapter = ServerAdapter(start_info["adapter"])
        self.seed = start_info["seed"]
        self._index = getattr(self.environment.runner, "worker_index", 0)
        self._processes = start_info["processes"]
        self._users, self.ended = 0, False
        if self.plan and self.plan.model is LoadModel.OPEN:
            self.arrivals = self.plan.arrivals(self._index, self._processes)
        self._begin = time.monotonic() + START_DELAY_SECONDS
        return self._begin

    def remove(self) -> None:
        """Delete the applications that the test used. `bench run` does so itself, after its audit."""
        options = self.environment.parsed_options
        assert options
        if self.folder or options.keep:
            return
        taken, self.fixtures = self.fixtures, Fixtures([], [])
        if left := fixtures.remove(ApiClient(self.environment.host or "", self.adapter), taken):
            logger.warning("%d applications named `load N` are left on the server", left)

    def stop_requested(self) -> bool:
        """Whether `bench run` has asked the run to end."""
        return self.folder is not None and (self.folder / STOP).exists()

    def flush(self) -> None:
        """Write the records of this process to the folder; without one, discard them."""
        taken = self.recorder.take()
        if self.folder:
            append_records(self.folder, "main", taken)

    def _load_preload(self) -> Preload:
        path = self.folder / PRELOAD if self.folder else None
        return Preload.from_json(json.loads(path.read_text())) if path else NO_PRELOAD

    def _load_plan(self) -> Plan | None:
        options = self.environment.parsed_options
        assert options
        if self.folder:
            return Plan.from_json(json.loads((self.folder / PLAN).read_text()))
        if options.rate:
            endless = Stage(1e6, options.rate, options.rate)
            return Plan("", "", LoadModel.OPEN, options.seed, 0, [endless], options.chats)
        return None

    def _load_adapter(self) -> ServerAdapter:
        options = self.environment.parsed_options
        assert options
        if self.folder:
            return ServerAdapter(json.loads((self.folder / ADAPTER).read_text()))
        if options.adapter:
            try:
                return load(Path(options.adapter))
            except InvalidAdapter as error:
                sys.exit(f"--adapter {error}")
        return default_adapter()


_coordinators: list[Coordinator] = []


def coordinator() -> Coordinator:
    """The coordinator of this process."""
    return _coordinators[-1]


def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("InstaChat")
    group.add_argument("--seed", type=int, default=1, help="determines what is sent")
    group.add_argument("--rate", type=float, help="open model: arrivals a second, at a fixed rate")
    group.add_argument("--chats", type=int, help="number of chats; default: the scenario's")
    group.add_argument("--adapter", help="TOML file that describes another server's API")
    group.add_argument(
        "--keep", action="store_true", help="leave the test's applications on the server"
    )
    group.add_argument("--folder", help="a run's folder, with its plan; used by `bench run`")


def _init(environment: Environment, **_: object) -> None:
    _coordinators.append(Coordinator(environment))
    if coordinator().folder:
        gevent.spawn(_exit_on_stdin_eof)
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message("fixtures", lambda msg, **_: coordinator().begin(msg.data))
        runner.register_message("end", lambda **_: coordinator().end())
    else:
        gevent.spawn(_write_periodically)


def _exit_on_stdin_eof() -> None:
    """End this process when `bench run`, which holds the other end of the pipe, has ended."""
    gevent.socket.wait_read(sys.stdin.fileno())  # nothing is ever written: readable means closed
    os._exit(1)


def _write_periodically() -> None:
    while True:
        gevent.sleep(REPORT_SECONDS)
        coordinator().flush()


def _start(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        coordinator().prepare()


def _stop(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        coordinator().remove()


def _report(data: dict[str, Any], **_: object) -> None:
    data["recorded"] = coordinator().recorder.take()


def _receive(client_id: str, data: dict[str, Any], **_: object) -> None:
    if folder := coordinator().folder:
        append_records(folder, client_id, data["recorded"])


def _quit(**_: object) -> None:
    if _coordinators and not isinstance(coordinator().environment.runner, WorkerRunner):
        coordinator().flush()


events.init_command_line_parser.add_listener(_options)
events.init.add_listener(_init)
events.test_start.add_listener(_start)
events.test_stop.add_listener(_stop)
events.report_to_master.add_listener(_report)
events.worker_report.add_listener(_receive)
events.quit.add_listener(_quit)
