"""An installation for a history whose network is harmed: each program has a link of its own to each engine.

A link is a proxy, which drops what it should deliver, in both directions or in one, delays it, forgets its
connections or resets them (`tests/support/faults/proxy.py`). Below it there can be a network that loses
packets (`tests/support/faults/lossy_network.py`). Redis has a replica that has to confirm each
answer, PostgreSQL a synchronous standby; these have links, too.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from backend.settings import Settings
from tests.support.engines import PostgresServer, RedisServer, valkey_binary
from tests.support.faults.lossy_network import LOCAL, LossyNetwork
from tests.support.faults.proxy import Address, Proxy
from tests.support.histories.installation import Installation

MAX_PARTITION_SECONDS = 8.0
MAX_LOSS = 0.3  # of the packets of a link
DELAY_SECONDS = 0.5
# After which a kernel gives a connection up that the other end has forgotten; see `Database`.
FORGOTTEN_SECONDS = 5.0
WHOLE_PROGRAM = 0.25  # of the faults concern all links of a program
SOCKET = ".s.PGSQL.5432"


class Link(NamedTuple):
    """The connections of a program to an engine: at this `host`, and the proxy's port."""

    program: str
    proxy: Proxy
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        """What the program connects to."""
        return f"{self.host}:{self.proxy.port}"


class NetworkInstallation(Installation):
    """Its servers, workers, engines and their replicas run undisturbed; what is between them does not."""

    def _start(self, stack: ExitStack) -> None:
        self._stack = stack
        self.links: list[Link] = []
        self._programs: dict[str, Settings] = {}
        super()._start(stack)

    def _settings_of(self, program: str) -> Settings:
        if program not in self._programs:
            redis = self._link(program, ("127.0.0.1", self.redis.port))
            hosts = [self.postgres, self.standby] if self._has_standby else [self.postgres]
            postgres = ",".join(self._link(program, host.folder / SOCKET).address for host in hosts)
            changed: dict[str, object] = {
                "durable_replicas": 1,
                "redis_url": f"redis://{redis.address}",
                "database_url": f"postgresql://postgres@{postgres}/postgres",
            }
            self._programs[program] = self.settings.model_copy(update=changed)
        return self._programs[program]

    def _start_redis(self, stack: ExitStack) -> RedisServer:
        primary = super()._start_redis(stack)
        link = self._link("replica", ("127.0.0.1", primary.port))
        replica = RedisServer(valkey_binary(), "--replicaof", link.host, str(link.proxy.port))
        stack.callback(replica.remove)
        replica.start()
        return primary

    def _start_postgres(
        self, stack: ExitStack, primary: PostgresServer | None = None
    ) -> PostgresServer:
        server = super()._start_postgres(stack, primary)
        if primary:
            link = self._link("standby", primary.folder / SOCKET)
            connection = f"host={link.host} port={link.proxy.port} user=postgres"
            server.execute(f"ALTER SYSTEM SET primary_conninfo = '{connection}'")
            server.execute("ALTER SYSTEM SET wal_receiver_timeout = '3s'")
            server.execute("SELECT pg_reload_conf()")
        return server

    def _link(self, program: str, target: Address) -> Link:
        link = self._new_link(program, target)
        self._stack.callback(link.proxy.close)
        self.links.append(link)
        return link

    def _new_link(self, program: str, target: Address) -> Link:
        return Link(program, Proxy(target))

    # -- faults --------------------------------------------------------------------------------------

    @property
    def faults(self) -> list[Callable[[], None]]:
        """What can be done to its network, any number of times."""
        return [
            self.partition,
            self.partition_from_engine,
            self.partition_to_engine,
            self.delay,
            self.forget,
            self.reset,
        ]

    def _chosen_links(self) -> list[Link]:
        """One link, or all of a program."""
        chosen = self._dice.choice(self.links)
        if self._dice.random() < WHOLE_PROGRAM:
            return [link for link in self.links if link.program == chosen.program]
        return [chosen]

    def _chosen(self) -> list[Proxy]:
        return [link.proxy for link in self._chosen_links()]

    def _hold(self, *, from_clients: bool = True, from_engine: bool = True) -> None:
        proxies = self._chosen()
        for proxy in proxies:
            proxy.hold(from_clients=from_clients, from_engine=from_engine)
        time.sleep(self._dice.uniform(0.1, MAX_PARTITION_SECONDS))
        for proxy in proxies:
            proxy.deliver()

    def partition(self) -> None:
        """Deliver nothing for a while."""
        self._hold()

    def partition_from_engine(self) -> None:
        """Deliver requests, and no answers, for a while."""
        self._hold(from_clients=False)

    def partition_to_engine(self) -> None:
        """Deliver answers, and no requests, for a while."""
        self._hold(from_engine=False)

    def delay(self) -> None:
        """Deliver everything half a second late for a while."""
        proxies = self._chosen()
        for proxy in proxies:
            proxy.delay_seconds = DELAY_SECONDS
        time.sleep(self._dice.uniform(1, MAX_PARTITION_SECONDS))
        for proxy in proxies:
            proxy.delay_seconds = 0.0

    def forget(self) -> None:
        """Have an engine see the end of connections that the program believes to be open."""
        proxies = self._chosen()
        for proxy in proxies:
            proxy.forget()
        time.sleep(FORGOTTEN_SECONDS)
        for proxy in proxies:
            proxy.reset_forgotten()

    def reset(self) -> None:
        """Break the connections."""
        for proxy in self._chosen():
            proxy.reset()


class LossyInstallation(NetworkInstallation):
    """Its packets are lost at random, too: always a few, and now and then many of a link or a program."""

    def __init__(
        self, folder: Path, seed: int, *, standby: bool, network: LossyNetwork, loss: float
    ) -> None:
        """`loss` is the share of all packets that is lost at any time."""
        super().__init__(folder, seed, standby=standby)
        self._network = network
        self._loss = loss

    def _new_link(self, program: str, target: Address) -> Link:
        host = self._network.new_link()
        self._network.lose(host, self._loss)
        return Link(program, Proxy(target, LOCAL), host)

    @property
    def faults(self) -> list[Callable[[], None]]:
        """See Installation."""
        return [*super().faults, self.lose, self.lose]

    def lose(self) -> None:
        """Lose up to a third of the packets for a while."""
        links = self._chosen_links()
        share = self._dice.uniform(self._loss, MAX_LOSS)
        for link in links:
            self._network.lose(link.host, share)
        time.sleep(self._dice.uniform(1, MAX_PARTITION_SECONDS))
        for link in links:
            self._network.lose(link.host, self._loss)
