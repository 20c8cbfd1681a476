"""Records histories under random faults, and checks them.

    .venv/bin/python -m tests.support.histories.run --seconds 600 --seeds 1,2

runs an installation of its own, kills, stops and suspends its parts, and fails its PostgreSQL over once; with
`--network` it partitions, delays and breaks the connections between the parts instead, and with `--loss 0.02`
the kernel's packets are lost, too (as root);

    .venv/bin/python -m tests.support.histories.run --url http://127.0.0.1:3000 --url http://127.0.0.1:3001

records a server that runs already, through as many of its processes as there are URLs, without faults.

A seed gives the same faults in the same order; their timing, and what the clients do, depend on the machine.
Exits with 4 if an answer is one that no correct server gives. The history is kept then, and
`python -m tests.support.histories.checker` checks it again.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from tests.support.faults.lossy_network import LossyNetwork
from tests.support.histories.checker import FAILED_EXIT_CODE, check
from tests.support.histories.exchanges import write_history
from tests.support.histories.http_client import HttpClient
from tests.support.histories.installation import Installation
from tests.support.histories.network import LossyInstallation, NetworkInstallation
from tests.support.histories.recorder import Recorder
from tests.support.histories.workload import Workload

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.2, 2.5  # between two faults
FAILOVER_SHARE = 0.6  # of the time passes before the failover
HISTORY = "history.jsonl"


class MakeInstallation(Protocol):
    """Makes the installation of a history, as `Installation` does."""

    def __call__(self, folder: Path, seed: int, *, standby: bool) -> Installation:
        """See `Installation`."""


@dataclass
class Result:
    """The result of one history. It has passed if there are no `faults`."""

    seed: int
    seconds: float = 0.0
    exchanges: int = 0
    answers: int = 0
    """Exchanges with an answer other than 503."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each fault was caused, by its name."""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        harm = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        line = (
            f"seed {self.seed}: {self.exchanges:,} requests in {self.seconds:.0f} s, {self.answers:,}"
            f" answered; {self.done.total()} faults ({harm}); {len(self.faults)} violations"
        )
        return "\n".join([line, *self.faults[:30]])


def record_installation(
    folder: Path,
    seed: int,
    seconds: float,
    *,
    failover: bool,
    make: MakeInstallation = Installation,
    clients: int = 10,
    min_answers: int = 0,
) -> Result:
    """Record and check a history of an installation that is harmed at random for so many seconds.

    It goes on until there are `min_answers`. `make` decides which installation it is, and how it is harmed.
    """
    result, dice = Result(seed), random.Random(seed)
    with make(folder, seed, standby=failover) as installation:
        recorder = Recorder()
        workload = _workload(recorder, installation.urls, seed, clients)
        begin = time.monotonic()
        workload.start()
        try:
            while (passed := time.monotonic() - begin) < seconds or _count_answers(
                recorder
            ) < min_answers:
                harm = dice.choice(installation.faults)
                if failover and passed > FAILOVER_SHARE * seconds:
                    failover, harm = False, installation.fail_over
                harm()
                result.done[harm.__name__.replace("_", " ")] += 1
                time.sleep(dice.uniform(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS))
                result.faults += installation.revive()
        finally:
            workload.stop()
        for server in installation.servers:
            server.wait_ready()
        workload.read_everything()
        result.faults += installation.reconcile()
    result.seconds = time.monotonic() - begin
    return _finish(result, recorder, folder)


def record_urls(folder: Path, urls: Sequence[str], seed: int, seconds: float) -> Result:
    """Record and check a history of a server that runs already."""
    recorder = Recorder()
    workload = _workload(recorder, urls, seed, 10)
    begin = time.monotonic()
    workload.start()
    workload.wait(seconds)
    workload.stop()
    workload.read_everything()
    return _finish(Result(seed, time.monotonic() - begin), recorder, folder)


def _workload(recorder: Recorder, urls: Sequence[str], seed: int, clients: int) -> Workload:
    def new_client(number: int) -> HttpClient:
        return HttpClient(recorder, number, urls)

    return Workload(recorder, new_client, len(urls), seed, clients=clients)


def _count_answers(recorder: Recorder) -> int:
    return sum(one.status is not None and one.status < 500 for one in list(recorder.history))


def _finish(result: Result, recorder: Recorder, folder: Path) -> Result:
    history = recorder.history
    write_history(folder / HISTORY, history)
    result.exchanges = len(history)
    result.answers = _count_answers(recorder)
    result.faults += map(str, check(history))
    return result


def main() -> None:
    """Record a history for each seed, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each history")
    parser.add_argument("--seeds", default=str(random.SystemRandom().getrandbits(32)))
    parser.add_argument("--url", action="append", default=[], help="of a process of a server")
    parser.add_argument("--network", action="store_true", help="harm the network, not the parts")
    parser.add_argument("--loss", type=float, default=0.0, help="of packets, by --network; as root")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("INSTACHAT_")]:
        del os.environ[name]
    failed = False
    make: MakeInstallation = NetworkInstallation if options.network else Installation
    lossy: LossyNetwork | None = None
    if options.loss:  # before there is any thread
        lossy = LossyNetwork(seed=0)
        make = partial(LossyInstallation, network=lossy, loss=options.loss)
    for seed in map(int, options.seeds.split(",")):
        again = f"--seconds {options.seconds:g} --seeds {seed}"
        again += " --network" * options.network + f" --loss {options.loss:g}" * bool(lossy)
        sys.stderr.write(f"recording for {options.seconds:g} s; the same faults again: {again}\n")
        folder = Path(tempfile.mkdtemp(prefix="instachat-history-"))
        result = (
            record_urls(folder, options.url, seed, options.seconds)
            if options.url
            else record_installation(folder, seed, options.seconds, failover=True, make=make)
        )
        if lossy:
            sys.stdout.write(f"{lossy.lost_packets:,} packets were lost\n")
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        if result.faults:
            failed = True
            sys.stdout.write(f"the history and the logs are in {folder}\n")
        else:
            shutil.rmtree(folder)
    sys.exit(FAILED_EXIT_CODE if failed else 0)


if __name__ == "__main__":
    main()
