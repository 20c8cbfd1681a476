"""The soak: a mixed load, and one random fault after another, for a given time.

Writers and workers, Valkey and PostgreSQL (and Elasticsearch, if asked for) are killed and stopped,
connections are broken, the queue is filled; meanwhile `reconcile` runs repeatedly and must find nothing.
At the end the ledgers are compared with what is stored: nothing is lost, duplicated or different.

    .venv/bin/python -m tests.support.faults.soak --seconds 600 [--seed N] [--elasticsearch]

A seed gives the same faults in the same order; their timing depends on the machine.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import InstaChatError, Unavailable
from backend.ingest.requests import AcceptRequest
from backend.reconcile.findings import Finding
from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import (
    PostgresServer,
    RedisServer,
    valkey_binary,
    wheel_postgres,
)
from tests.support.faults import mixed_writer
from tests.support.faults.load import drain_completely
from tests.support.faults.proxy import Proxy
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.waiting import PATIENCE_SECONDS, wait_until

WRITERS = 2
WORKERS = 2
APPLICATIONS = 3
FILL_JOBS = 5_000  # that fill the queue
UNREACHABLE_EXIT_CODE = 5  # the exit code of a process that can't reach an engine


@dataclass
class SoakResult:
    """The result of a soak. The soak has passed if there are no `faults` and no `findings`."""

    seed: int
    seconds: float = 0.0
    answered: int = 0
    done: Counter[str] = field(
        default_factory=Counter
    )  # how often each fault was caused, by its name
    reconciled: int = 0  # complete runs of `reconcile` during the load
    findings: list[Finding] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        harm = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        line = (
            f"{self.seconds:.0f} s, seed {self.seed}: {self.answered:,} answers,"
            f" {self.done.total()} faults ({harm}), reconciled {self.reconciled} times:"
            f" {len(self.faults)} lost, duplicated or changed, {len(self.findings)} differences"
        )
        return "\n".join([line, *map(str, self.findings[:20]), *self.faults[:20]])


class ProcessGroup:
    """Processes of one kind, each of which can be killed and is then restarted."""

    def __init__(self, start: Callable[[], ForkedProcess], count: int) -> None:
        self._start = start
        self.processes = [start() for _ in range(count)]

    def kill(self, which: int) -> None:
        """Send kill -9, and start another in its place."""
        process = self.processes[which]
        process.kill()
        process.wait()
        self.processes[which] = self._start()

    def revive(self) -> list[int]:
        """Restart the processes that have ended; returns their exit codes."""
        ended = [n for n, process in enumerate(self.processes) if process.poll() is not None]
        codes = [self.processes[n].wait() for n in ended]
        for n in ended:
            self.processes[n] = self._start()
        return codes

    def stop(self, which: int, seconds: float) -> None:
        """Stop a process for a while with SIGSTOP."""
        self.processes[which].send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.processes[which].send_signal(signal.SIGCONT)

    def finish(self, number: signal.Signals | None) -> list[int]:
        """Send a signal and wait until all have ended; returns their exit codes."""
        for process in self.processes:
            if number is not None:
                process.send_signal(number)
        return [process.wait(PATIENCE_SECONDS) for process in self.processes]

    def end(self) -> None:
        """Kill all."""
        for process in self.processes:
            process.kill()
            process.wait()


class Soak:
    """One run, with its own engines and folder."""

    def __init__(self, folder: Path, seed: int, *, elasticsearch: bool = False) -> None:
        self.outcome = SoakResult(seed)
        self._random = random.Random(seed)
        self._folder = folder
        self._open = ExitStack()
        self._with_index = elasticsearch
        self._writers_started = 0

    def run(self, seconds: float, reconciled: int = 0) -> SoakResult:
        """Soak for this time and until `reconcile` ran often enough; then compare stores and ledgers."""
        with self._open:
            self._begin()
            self._harm(seconds, reconciled)
            self._end()
        return self.outcome

    # -- the beginning -----------------------------------------------------------------------------

    def _begin(self) -> None:
        self.postgres = PostgresServer(wheel_postgres())
        self._open.callback(self.postgres.remove)
        self.postgres.start()
        self.redis = RedisServer(valkey_binary())
        self._open.callback(self.redis.remove)
        self.redis.start()
        self.to_postgres = self._proxy(Proxy(self.postgres.folder / ".s.PGSQL.5432"))
        self.to_redis = self._proxy(Proxy(("127.0.0.1", self.redis.port)))
        urls = {
            "database_url": f"postgresql://postgres@127.0.0.1:{self.to_postgres.port}/postgres",
            "redis_url": f"redis://127.0.0.1:{self.to_redis.port}",
        }
        if self._with_index:
            urls["elasticsearch_url"] = self._start_elasticsearch()
        self.settings = Settings(**urls)
        self._environment = {f"INSTACHAT_{name.upper()}": url for name, url in urls.items()}
        database = Database(str(self.settings.database_url))
        upgrade(database)
        database.close()
        with open_backend(self.settings) as backend:
            tokens = []
            for n in range(APPLICATIONS):
                tokens.append(backend.catalog.applications.create(f"{n}").token)
                backend.acceptor.accept(AcceptRequest.chats(tokens[-1], mixed_writer.CHATS))
            backend.drainer.drain_all()
        self._tokens = tokens
        self.workers = ProcessGroup(lambda: self._start("instachat_cli", "worker"), WORKERS)
        self._open.callback(self.workers.end)
        self.writers = ProcessGroup(self._start_writer, WRITERS)
        self._open.callback(self.writers.end)
        wait_until(
            lambda: len(self._ledgers) == WRITERS and all(p.stat().st_size for p in self._ledgers)
        )

    def _proxy(self, proxy: Proxy) -> Proxy:
        self._open.callback(proxy.close)
        return proxy

    def _start_elasticsearch(self) -> str:
        from tests.support.elasticsearch.nodes import new_node

        node = new_node()
        self._open.callback(node.remove)
        node.start()
        self.elasticsearch = node
        return node.url

    def _start(self, module: str, *arguments: str) -> ForkedProcess:
        environment = os.environ | self._environment
        with (self._folder / f"{module}.log").open("ab") as log:
            return start_module(module, *arguments, environment=environment, stderr=log)

    def _start_writer(self) -> ForkedProcess:
        self._writers_started += 1
        name = f"{self.outcome.seed}.{self._writers_started}"
        return self._start(
            "tests.support.faults.mixed_writer", str(self._folder), name, *self._tokens
        )

    @property
    def _ledgers(self) -> list[Path]:
        return list(self._folder.glob("ledger-*"))

    # -- the faults --------------------------------------------------------------------------------

    def _harm(self, seconds: float, reconciled: int) -> None:
        begin = time.monotonic()
        harms: list[Callable[[], None]] = [
            self._kill_worker,
            self._stop_worker,
            self._kill_writer,
            self._stop_writer,
            self._kill_redis,
            self._stop_redis,
            self._kill_postgres,
            self._stop_postgres,
            self._cut_redis,
            self._cut_postgres,
            self._fill_queue,
        ]
        if self._with_index:
            harms += [self._stop_elasticsearch]
        with self._reconciling():
            while time.monotonic() - begin < seconds or self.outcome.reconciled < reconciled:
                harm = self._random.choice(harms)
                harm()
                self.outcome.done[harm.__name__[1:].replace("_", " ")] += 1
                time.sleep(self._random.uniform(0.1, 1.5))
                # A worker that starts while an engine is down reports it and exits, as `up` expects.
                if set(self.workers.revive()) - {UNREACHABLE_EXIT_CODE}:
                    self.outcome.faults.append("a worker ended: " + self._log_text("instachat_cli"))
                if self.writers.revive():
                    self.outcome.faults.append(
                        "a writer ended: " + self._log_text("tests.support.faults.mixed_writer")
                    )
                if self.outcome.faults or self.outcome.findings:
                    break
        self.outcome.seconds = time.monotonic() - begin

    def _kill_worker(self) -> None:
        self.workers.kill(self._random.randrange(WORKERS))

    def _stop_worker(self) -> None:
        self.workers.stop(self._random.randrange(WORKERS), self._random.uniform(0.1, 2.0))

    def _kill_writer(self) -> None:
        self.writers.kill(self._random.randrange(WRITERS))

    def _stop_writer(self) -> None:
        self.writers.stop(self._random.randrange(WRITERS), self._random.uniform(0.1, 2.0))

    def _kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(self._random.uniform(0.0, 0.5))
        self.redis.start()

    def _stop_redis(self) -> None:
        self.redis.send(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, 4.0))  # sometimes longer than a client waits
        self.redis.send(signal.SIGCONT)

    def _kill_postgres(self) -> None:
        assert self.postgres.process
        backends = psutil.Process(self.postgres.process.pid).children(recursive=True)
        self.postgres.send_all(signal.SIGKILL)
        self.postgres.process.wait()
        # A new PostgreSQL does not start while a process of the old one exists.
        psutil.wait_procs(backends, 30)
        for _ in range(10):
            try:
                return self.postgres.start()
            except RuntimeError:  # a connection that was being created
                time.sleep(0.5)
        raise RuntimeError("PostgreSQL does not start any more")

    def _stop_postgres(self) -> None:
        self.postgres.send_all(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, 2.0))
        self.postgres.send_all(signal.SIGCONT)

    def _cut_redis(self) -> None:
        self.to_redis.cut(self._random)

    def _cut_postgres(self) -> None:
        self.to_postgres.cut(self._random)

    def _stop_elasticsearch(self) -> None:
        self.elasticsearch.send(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, 5.0))
        self.elasticsearch.send(signal.SIGCONT)

    def _fill_queue(self) -> None:
        """Fill the queue with unnecessary drains."""
        try:
            with open_backend(self.settings) as backend:
                shards = backend.database.installation.shards
                for n in range(FILL_JOBS):
                    backend.jobs.notify_drain(shards[n % len(shards)])
        except InstaChatError:  # an engine that is starting
            pass

    @contextmanager
    def _reconciling(self) -> Iterator[None]:
        """Sync counters and reconcile repeatedly in a thread; nothing may differ."""
        over = threading.Event()

        def reconcile(backend: Backend) -> None:
            list(backend.counter_sync.sync())
            found = list(backend.reconciler.begin().findings())
            self.outcome.findings += found
            self.outcome.reconciled += 1

        def run() -> None:
            while not over.is_set() and not self.outcome.findings:
                try:  # an engine may be down from the start
                    with open_backend(self.settings) as backend:
                        while not over.is_set() and not self.outcome.findings:
                            reconcile(backend)
                except Unavailable:
                    over.wait(0.1)

        thread = threading.Thread(target=self._recording_failure(run))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _recording_failure(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record an error in a thread as a fault."""

        def recording() -> None:
            try:
                run()
            except Exception as error:  # noqa: BLE001  # whatever it is
                self.outcome.faults.append(f"reconcile ended: {error!r}")

        return recording

    # -- the end -----------------------------------------------------------------------------------

    def _end(self) -> None:
        (self._folder / "stop").touch()
        if any(self.writers.finish(None)):
            self.outcome.faults.append(
                "a writer failed: " + self._log_text("tests.support.faults.mixed_writer")
            )
        # A process that has just started may not handle the signal yet.
        if set(self.workers.finish(signal.SIGTERM)) - {0, UNREACHABLE_EXIT_CODE, -signal.SIGTERM}:
            self.outcome.faults.append("a worker failed: " + self._log_text("instachat_cli"))
        with open_backend(self.settings) as backend:
            drain_completely(backend)
            backend.cascade_deleter.delete_all()
            if backend.publisher:
                backend.publisher.publish()
            with backend.database.connect() as connection:
                rows = connection.exec_driver_sql(
                    "SELECT token, c.number, m.number, CASE m.state WHEN 'stored' THEN m.text END"
                    " FROM message m JOIN chat c ON c.id = chat_id"
                    " JOIN application a ON a.id = application_id"
                )
                stored = {(token, chat, number): text for token, chat, number, text in rows}
            self.outcome.faults += mixed_writer.faults(self._ledgers, stored)
            self.outcome.findings += backend.reconciler.begin().findings()
        self.outcome.answered = sum(path.read_bytes().count(b'"answer"') for path in self._ledgers)

    def _log_text(self, module: str) -> str:
        return (self._folder / f"{module}.log").read_text()[-2000:]


def main() -> int:
    """The command line: returns 0 if the soak passed, else 4."""
    parser = argparse.ArgumentParser(description="Random faults under a mixed load.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--elasticsearch", action="store_true", help="with a search index, too")
    asked = parser.parse_args()
    again = f"make soak ARGS='--seed {asked.seed} --seconds {asked.seconds:g}'"
    sys.stderr.write(f"soaking for {asked.seconds:g} s; the same faults again: {again}\n")
    folder = Path(tempfile.mkdtemp(prefix="instachat-soak-"))
    try:
        outcome = Soak(folder, asked.seed, elasticsearch=asked.elasticsearch).run(asked.seconds)
        sys.stdout.write(f"{outcome}\n")
        return 4 if outcome.faults or outcome.findings else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
