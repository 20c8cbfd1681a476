"""What the processes of a run share, by Locust's own messages: the ground, the plan, the clock, the ledger.

The process that has no master makes the ground when the test starts, and tells the workers before they
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
from loadtest.corpus.fixtures import Ground, Layout
from loadtest.errors import CouldNotRun, Unreachable
from loadtest.recording import Recorder, keep
from loadtest.report.result import Model
from loadtest.run.folder import NEWS, PLAN, STOP, UNREACHABLE, UNUSABLE
from loadtest.run.plan import Plan, Stage
from loadtest.web import Web

REPORT_SECONDS = 1.0
LEAD_SECONDS = 0.5  # from the ground to the run's begin, so that everybody is there
logger = logging.getLogger(__name__)

runners.WORKER_REPORT_INTERVAL = REPORT_SECONDS
# A worker on a busy machine is not lost because it was silent for three seconds, which is Locust's default.
runners.HEARTBEAT_LIVENESS = 30


class Swarm:
    """The state of this process."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.recorder = Recorder()
        self.ground = Ground([], [])
        self.arrivals: Iterator[tuple[int, float]] | None = None
        self.seed = 1
        self.ended = False
        self._begin: float | None = None
        self._index, self._processes = 0, 1
        self._users = 0
        folder = getattr(environment.parsed_options, "folder", None)
        self.folder = Path(folder) if folder else None
        self.plan = self._planned()

    @property
    def now(self) -> float | None:
        """Seconds since the run's begin; None before the ground is there."""
        return None if self._begin is None else time.monotonic() - self._begin

    @property
    def over(self) -> bool:
        """Whether nobody is to begin anything any more. Each process knows that by itself."""
        planned = self.plan.seconds if self.plan else math.inf
        return self.ended or (self.now or 0.0) >= planned

    def end(self) -> None:
        """Nobody, in whatever process, is to begin anything any more."""
        if not self.ended and isinstance(self.environment.runner, MasterRunner):
            self.environment.runner.send_message("end")
        self.ended = True

    def next_user(self) -> int:
        """A number for a new user: in the whole swarm nobody else has it."""
        mine = self._users
        self._users += 1
        return mine * self._processes + self._index

    def prepare(self) -> None:
        """Make the ground and begin; where that fails, the run ends with an exit code of its own."""
        options, runner = self.environment.parsed_options, self.environment.runner
        assert options
        assert runner
        layout: Layout = self.environment.user_classes[0].layout  # type: ignore[attr-defined]
        plan = self.plan
        seed = plan.seed if plan else options.seed
        chats = plan.chats if plan else options.chats
        try:
            web = Web(self.environment.host or "")
            made = fixtures.make(web, layout.with_chats(chats), seed, self.recorder)
        except CouldNotRun as error:
            logger.error("%s", error)
            unreachable = isinstance(error, Unreachable)
            self.environment.process_exit_code = UNREACHABLE if unreachable else UNUSABLE
            gevent.spawn(runner.quit)
            gevent.sleep(60)  # until that has ended us
            return
        news = {
            "ground": asdict(made),
            "plan": plan.to_json() if plan else None,
            "seed": seed,
            "processes": getattr(runner, "worker_count", 1),
        }
        if isinstance(runner, MasterRunner):
            runner.send_message("ground", news)
        begun = self.begin(news)
        if self.folder:
            unfinished = self.folder / f"{NEWS}.new"
            unfinished.write_text(json.dumps(news | {"begin": begun}))
            unfinished.replace(self.folder / NEWS)

    def begin(self, news: dict[str, Any]) -> float:
        """The ground is there: the clock starts; returns the moment, by time.monotonic()."""
        self.ground = Ground.load(news["ground"])
        self.plan = Plan.from_json(news["plan"]) if news["plan"] else None
        self.seed = news["seed"]
        self._index = getattr(self.environment.runner, "worker_index", 0)
        self._processes = news["processes"]
        self._users, self.ended = 0, False
        if self.plan and self.plan.model is Model.OPEN:
            self.arrivals = self.plan.arrivals(self._index, self._processes)
        self._begin = time.monotonic() + LEAD_SECONDS
        return self._begin

    def stop_asked(self) -> bool:
        """Whether somebody wants the run to end in good order."""
        return self.folder is not None and (self.folder / STOP).exists()

    def write(self) -> None:
        """Bring what this process has recorded to disk; without a folder it is forgotten."""
        taken = self.recorder.take()
        if self.folder:
            keep(self.folder, "main", taken)

    def _planned(self) -> Plan | None:
        options = self.environment.parsed_options
        assert options
        if self.folder:
            return Plan.from_json(json.loads((self.folder / PLAN).read_text()))
        if options.rate:
            endless = Stage(1e6, options.rate, options.rate)
            return Plan("", "", Model.OPEN, options.seed, 0, [endless], options.chats)
        return None


_swarm: list[Swarm] = []


def swarm() -> Swarm:
    """This process's; Locust has one environment."""
    return _swarm[-1]


def _options(parser: LocustArgumentParser) -> None:
    ours = parser.add_argument_group("InstaChat")
    ours.add_argument("--seed", type=int, default=1, help="what is sent follows from it")
    ours.add_argument(
        "--rate", type=float, help="open model: arrivals a second, held whatever comes"
    )
    ours.add_argument("--chats", type=int, help="instead of as many as the scenario has")
    ours.add_argument("--folder", help="a run's folder, with its plan; used by `bench run`")


def _init(environment: Environment, **_: object) -> None:
    _swarm.append(Swarm(environment))
    if swarm().folder:
        gevent.spawn(_end_with_input)
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message("ground", lambda msg, **_: swarm().begin(msg.data))
        runner.register_message("end", lambda **_: swarm().end())
    else:
        gevent.spawn(_write_often)


def _end_with_input() -> None:
    """Once `bench run`, which holds the other end of this pipe, is gone, nobody wants the load any more."""
    gevent.socket.wait_read(sys.stdin.fileno())  # nothing is written there: it can only be the end
    os._exit(1)


def _write_often() -> None:
    while True:
        gevent.sleep(REPORT_SECONDS)
        swarm().write()


def _start(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        swarm().prepare()


def _report(data: dict[str, Any], **_: object) -> None:
    data["recorded"] = swarm().recorder.take()


def _receive(client_id: str, data: dict[str, Any], **_: object) -> None:
    if folder := swarm().folder:
        keep(folder, client_id, data["recorded"])


def _quit(**_: object) -> None:
    if _swarm and not isinstance(swarm().environment.runner, WorkerRunner):
        swarm().write()


events.init_command_line_parser.add_listener(_options)
events.init.add_listener(_init)
events.test_start.add_listener(_start)
events.report_to_master.add_listener(_report)
events.worker_report.add_listener(_receive)
events.quit.add_listener(_quit)
