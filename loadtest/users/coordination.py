"""What the processes of a run share, by Locust's own messages: the fixtures, the plan, the clock, the ledger.

The process that has no master creates the fixtures when the test starts, and tells the workers before they
spawn anybody; what each process records flows back with Locust's reports. Without `--folder` nothing is
recorded, and Locust's own statistics are all there is.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent.socket
from locust import events, runners
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.corpus import fixtures
from loadtest.corpus.fixtures import Fixtures, Layout
from loadtest.errors import CouldNotRun, Unreachable
from loadtest.recording import Recorder, append_records
from loadtest.report.result import Model
from loadtest.run.folder import PLAN, START_INFO, STOP, UNREACHABLE, UNUSABLE
from loadtest.run.plan import Plan, Stage
from loadtest.web import ApiClient

REPORT_SECONDS = 1.0
START_DELAY_SECONDS = 0.5  # from the fixtures to the run's begin, so that everybody is there
logger = logging.getLogger(__name__)

runners.WORKER_REPORT_INTERVAL = REPORT_SECONDS
# A worker on a busy machine is not lost because it was silent for three seconds, which is Locust's default.
runners.HEARTBEAT_LIVENESS = 30


class Coordinator:
    """The state of this process."""

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

    @property
    def now(self) -> float | None:
        """Seconds since the run's begin; None before the fixtures exist."""
        return None if self._begin is None else time.monotonic() - self._begin

    @property
    def is_over(self) -> bool:
        """Whether nobody is to begin anything any more. Each process knows that by itself."""
        planned = self.plan.seconds if self.plan else math.inf
        return self.ended or (self.now or 0.0) >= planned

    def end(self) -> None:
        """Nobody, in whatever process, is to begin anything any more."""
        if not self.ended and isinstance(self.environment.runner, MasterRunner):
            self.environment.runner.send_message("end")
        self.ended = True

    def next_user_number(self) -> int:
        """A number for a new user: among all processes nobody else has it."""
        index = self._users
        self._users += 1
        return index * self._processes + self._index

    def prepare(self) -> None:
        """Create the fixtures and begin; where that fails, the run ends with an exit code of its own."""
        options, runner = self.environment.parsed_options, self.environment.runner
        assert options
        assert runner
        layout: Layout = self.environment.user_classes[0].layout  # type: ignore[attr-defined]
        plan = self.plan
        seed = plan.seed if plan else options.seed
        chats = plan.chats if plan else options.chats
        try:
            client = ApiClient(self.environment.host or "")
            created = fixtures.create(client, layout.with_chats(chats), seed, self.recorder)
        except CouldNotRun as error:
            logger.error("%s", error)
            unreachable = isinstance(error, Unreachable)
            self.environment.process_exit_code = UNREACHABLE if unreachable else UNUSABLE
            gevent.spawn(runner.quit)
            gevent.sleep(60)  # until that has ended us
            return
        start_info = {
            "fixtures": asdict(created),
            "plan": plan.to_json() if plan else None,
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
        """The fixtures exist: the clock starts; returns the moment, by time.monotonic()."""
        self.fixtures = Fixtures.from_json(start_info["fixtures"])
        self.plan = Plan.from_json(start_info["plan"]) if start_info["plan"] else None
        self.seed = start_info["seed"]
        self._index = getattr(self.environment.runner, "worker_index", 0)
        self._processes = start_info["processes"]
        self._users, self.ended = 0, False
        if self.plan and self.plan.model is Model.OPEN:
            self.arrivals = self.plan.arrivals(self._index, self._processes)
        self._begin = time.monotonic() + START_DELAY_SECONDS
        return self._begin

    def stop_requested(self) -> bool:
        """Whether somebody wants the run to end in good order."""
        return self.folder is not None and (self.folder / STOP).exists()

    def flush(self) -> None:
        """Bring what this process has recorded to disk; without a folder it is forgotten."""
        taken = self.recorder.take()
        if self.folder:
            append_records(self.folder, "main", taken)

    def _load_plan(self) -> Plan | None:
        options = self.environment.parsed_options
        assert options
        if self.folder:
            return Plan.from_json(json.loads((self.folder / PLAN).read_text()))
        if options.rate:
            endless = Stage(1e6, options.rate, options.rate)
            return Plan("", "", Model.OPEN, options.seed, 0, [endless], options.chats)
        return None


_coordinators: list[Coordinator] = []


def coordinator() -> Coordinator:
    """This process's; Locust has one environment."""
    return _coordinators[-1]


def _options(parser: LocustArgumentParser) -> None:
    ours = parser.add_argument_group("InstaChat")
    ours.add_argument("--seed", type=int, default=1, help="what is sent follows from it")
    ours.add_argument(
        "--rate", type=float, help="open model: arrivals a second, held whatever comes"
    )
    ours.add_argument("--chats", type=int, help="instead of as many as the scenario has")
    ours.add_argument("--folder", help="a run's folder, with its plan; used by `bench run`")


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
    """Once `bench run`, which holds the other end of this pipe, is gone, nobody wants the load any more."""
    gevent.socket.wait_read(sys.stdin.fileno())  # nothing is written there: it can only be the end
    os._exit(1)


def _write_periodically() -> None:
    while True:
        gevent.sleep(REPORT_SECONDS)
        coordinator().flush()


def _start(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        coordinator().prepare()


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
events.report_to_master.add_listener(_report)
events.worker_report.add_listener(_receive)
events.quit.add_listener(_quit)
