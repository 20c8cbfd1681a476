"""An installation for a history: two server processes, two workers, Valkey, and PostgreSQL with a standby.

Each part can be killed and suspended while clients are busy. The standby is synchronous, so a failover loses
nothing that was answered.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil

from backend.settings import Settings, as_environment
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import PostgresServer, RedisServer, valkey_binary, wheel_postgres
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.http_server import HttpServer
from tests.support.waiting import PATIENCE_SECONDS, wait_until

SERVERS = 2
WORKERS = 2
MAX_SUSPENDED_SECONDS = 2.5
MAX_PAUSED_SECONDS = 2.0
MAX_DOWN_SECONDS = 0.5
UNREACHABLE_EXIT_CODE = 5  # of a process that starts while an engine is away


class Installation:
    """The processes and the engines, from the beginning of a `with` block to its end."""

    def __init__(self, folder: Path, seed: int, *, standby: bool) -> None:
        """`folder` gets the logs. Without a `standby` there is no failover."""
        self._folder = folder
        self._dice = random.Random(seed)
        self._has_standby = standby
        self._open = ExitStack()
        self.workers: list[ForkedProcess] = []
        self.servers: list[HttpServer] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def urls(self) -> list[str]:
        """The URLs of the server processes."""
        return [f"http://127.0.0.1:{server.port}" for server in self.servers]

    def _start(self, stack: ExitStack) -> None:
        self.redis = self._start_redis(stack)
        self.postgres = self._start_postgres(stack)
        hosts = [self.postgres]
        if self._has_standby:
            self.standby = self._start_postgres(stack, self.postgres)
            hosts.append(self.standby)
            self.postgres.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.postgres.execute("SELECT pg_reload_conf()")
        database = Database(self.postgres.url())
        upgrade(database)
        database.close()
        names = ",".join(quote(str(host.folder), "") for host in hosts)
        self.settings = Settings(
            database_url=f"postgresql://postgres@{names}/postgres", redis_url=self.redis.url
        )
        for nth in range(SERVERS):
            server = HttpServer(self._settings_of(f"server {nth}"), self._folder)
            stack.callback(server.remove)
            self.servers.append(server)
        stack.callback(self._end_workers)
        for nth in range(WORKERS):
            self.workers.append(self._start_worker(nth))
        for server in self.servers:
            server.wait_ready()

    def _settings_of(self, program: str) -> Settings:  # noqa: ARG002  # which one does not matter here
        """The settings of one server or worker."""
        return self.settings

    def _start_redis(self, stack: ExitStack) -> RedisServer:
        server = RedisServer(valkey_binary())
        stack.callback(server.remove)
        server.start()
        return server

    def _start_postgres(
        self, stack: ExitStack, primary: PostgresServer | None = None
    ) -> PostgresServer:
        server = PostgresServer(wheel_postgres(), primary=primary)
        stack.callback(server.remove)
        server.start()
        return server

    def _start_worker(self, nth: int) -> ForkedProcess:
        environment = _environment(self._settings_of(f"worker {nth}"))
        with (self._folder / "worker.log").open("ab") as log:
            return start_module("instachat_cli", "worker", environment=environment, stderr=log)

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()

    # -- faults --------------------------------------------------------------------------------------

    @property
    def faults(self) -> list[Callable[[], None]]:
        """What can be done to it, any number of times."""
        return [
            self.kill_server,
            self.suspend_server,
            self.kill_worker,
            self.suspend_worker,
            self.kill_redis,
            self.suspend_redis,
            self.pause_redis,
            self.kill_postgres,
            self.suspend_postgres,
            self.pause_queue,
        ]

    def revive(self) -> list[str]:
        """Start again what has ended by itself; returns what ended otherwise than an outage explains."""
        faults = []
        for nth, worker in enumerate(self.workers):
            code = worker.poll()
            if code is not None:
                if code != UNREACHABLE_EXIT_CODE:
                    faults.append(f"a worker ended with {code}: see worker.log")
                worker.wait()
                self.workers[nth] = self._start_worker(nth)
        for server in self.servers:
            code = server.process.poll()
            if code is not None:
                if code != UNREACHABLE_EXIT_CODE:
                    faults.append(f"a server ended with {code}: {server.stderr_text[-2000:]}")
                server.process.wait()
                server.start()
        return faults

    def reconcile(self) -> list[str]:
        """Compare the stores, once nothing harms it any more; returns what differs."""
        code = self._run("reconcile", "-o", "table")
        return [f"reconcile ended with {code}: see commands.log"] if code else []

    def kill_server(self) -> None:
        """kill -9 a server with its processes, and start another in its place."""
        server = self._dice.choice(self.servers)
        children = _descendants(server.process.pid)
        for process in children:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.process.kill()
        server.process.wait()
        psutil.wait_procs(children, PATIENCE_SECONDS)
        server.start()

    def suspend_server(self) -> None:
        """Stop the processes of a server by SIGSTOP for a while."""
        self._suspend_processes(_descendants(self._dice.choice(self.servers).process.pid))

    def kill_worker(self) -> None:
        """kill -9 a worker, and start another in its place."""
        nth = self._dice.randrange(WORKERS)
        self.workers[nth].kill()
        self.workers[nth].wait()
        self.workers[nth] = self._start_worker(nth)

    def suspend_worker(self) -> None:
        """Stop a worker by SIGSTOP for a while."""
        worker = self._dice.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.1, MAX_SUSPENDED_SECONDS))
        worker.send_signal(signal.SIGCONT)

    def kill_redis(self) -> None:
        """kill -9 Valkey, and start it on its data."""
        self.redis.kill()
        time.sleep(self._dice.uniform(0, MAX_DOWN_SECONDS))
        self.redis.start()

    def suspend_redis(self) -> None:
        """Stop Valkey by SIGSTOP for a while."""
        self.redis.send(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.1, MAX_SUSPENDED_SECONDS))
        self.redis.send(signal.SIGCONT)

    def pause_redis(self) -> None:
        """Have Valkey hold its clients' writes, or all of their commands, for a while."""
        seconds = self._dice.uniform(0.1, MAX_PAUSED_SECONDS)
        with self.redis.client() as client:
            client.client_pause(int(seconds * 1_000), all=self._dice.random() < 0.5)
        time.sleep(seconds)

    def kill_postgres(self) -> None:
        """kill -9 PostgreSQL with its backends, and start it on its data."""
        _kill_postgres(self.postgres)
        for _ in range(10):
            with suppress(RuntimeError):  # a connection that was being created
                return self.postgres.start()
            time.sleep(MAX_DOWN_SECONDS)
        raise RuntimeError("PostgreSQL does not start any more")

    def suspend_postgres(self) -> None:
        """Stop PostgreSQL by SIGSTOP for a while."""
        self.postgres.send_all(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.1, MAX_SUSPENDED_SECONDS))
        self.postgres.send_all(signal.SIGCONT)

    def pause_queue(self) -> None:
        """Run `instachat queue pause`, and `resume` after a while."""
        self._run("queue", "pause", "-o", "table")
        time.sleep(self._dice.uniform(0.1, MAX_PAUSED_SECONDS))
        wait_until(lambda: self._run("queue", "resume", "-o", "table") == 0)

    def fail_over(self) -> None:
        """kill -9 the primary of PostgreSQL for good, and promote its standby."""
        _kill_postgres(self.postgres)
        self.standby.execute("SELECT pg_promote()")
        self.postgres = self.standby

    def _run(self, *command: str) -> int:
        with (self._folder / "commands.log").open("ab") as log:
            return start_module(
                "instachat_cli", *command, environment=_environment(self.settings), stderr=log
            ).wait(PATIENCE_SECONDS)

    def _suspend_processes(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(self._dice.uniform(0.1, MAX_SUSPENDED_SECONDS))
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _environment(settings: Settings) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    return inherited | as_environment(settings)


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill_postgres(server: PostgresServer) -> None:
    assert server.process
    backends = psutil.Process(server.process.pid).children(recursive=True)
    server.send_all(signal.SIGKILL)
    server.process.wait()
    # Another PostgreSQL does not start on the same data while a process of this one exists.
    psutil.wait_procs(backends, PATIENCE_SECONDS)
