"""Measures what clients see while the network between two parts is harmed, and for how long afterwards.

    .venv/bin/python -m tests.support.histories.network_table

A client for each kind of request asks a server again and again. One link is harmed for some seconds; a row of
the table has what the clients were answered meanwhile, and how long each kind took to be answered as before.
As root, there are rows of packets that the kernel loses, too.
"""

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.faults.lossy_network import LossyNetwork
from tests.support.faults.proxy import Proxy
from tests.support.histories.http_client import HttpClient
from tests.support.histories.network import (
    DELAY_SECONDS,
    Link,
    LossyInstallation,
    NetworkInstallation,
)
from tests.support.histories.recorder import Recorder

HARM_SECONDS = 12.0
PAUSE_SECONDS = 0.1  # between two requests of a client
GOOD_SECONDS = 1.5  # without a refusal: the kind is answered as before
MAX_RECOVERY_SECONDS = 120.0
ANSWERED = frozenset({200, 201, 202, 204})


class Seen(NamedTuple):
    """An answer: its status, and by the monotonic clock when it was asked for and when it came."""

    status: int | None
    began: float
    ended: float


class Harm(NamedTuple):
    """A fault: what begins it, and what ends it."""

    name: str
    begin: Callable[[Link], object]
    end: Callable[[Link], object]


def _delay(seconds: float) -> Callable[[Link], None]:
    def set_delay(link: Link) -> None:
        link.proxy.delay_seconds = seconds

    return set_delay


def _deliver(link: Link) -> None:
    link.proxy.deliver()


HARMS = (
    Harm("nothing arrives", lambda link: link.proxy.hold(), _deliver),
    Harm(
        "requests arrive, answers do not",
        lambda link: link.proxy.hold(from_clients=False),
        _deliver,
    ),
    Harm(
        "answers arrive, requests do not", lambda link: link.proxy.hold(from_engine=False), _deliver
    ),
    Harm("everything arrives half a second later", _delay(DELAY_SECONDS / 2), _delay(0.0)),
    Harm(
        "the other end forgets the connections",
        lambda link: link.proxy.forget(),
        lambda link: link.proxy.reset_forgotten(),
    ),
    Harm("connections are reset", lambda link: link.proxy.reset(), lambda _: None),
)
LOST_SHARES = (0.02, 0.1, 0.3)
PAIRS = (
    ("server – Redis", "server 0", "redis"),
    ("server – PostgreSQL", "server 0", "postgres"),
    ("worker – Redis", "worker", "redis"),
    ("worker – PostgreSQL", "worker", "postgres"),
    ("Redis – replica", "replica", "redis"),
    ("PostgreSQL – standby", "standby", "postgres"),
)


class Probe(threading.Thread):
    """A client that makes one kind of request again and again."""

    def __init__(
        self, name: str, client: HttpClient, ask: Callable[[HttpClient], int | None]
    ) -> None:
        super().__init__(daemon=True)
        self.kind = name
        self.seen: list[Seen] = []
        self._client = client
        self._ask = ask
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until `end`."""
        while not self._over.wait(PAUSE_SECONDS):
            began = time.monotonic()
            self.seen.append(Seen(self._ask(self._client), began, time.monotonic()))

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self.join()
        self._client.close()

    def describe(self, begin: float, end: float) -> str:
        """The statuses of the requests that were asked in a time, and the longest wait for each."""
        longest: dict[str, float] = {}
        for one in self.seen:
            if begin <= one.began < end:
                status = str(one.status or "no answer")
                longest[status] = max(longest.get(status, 0.0), one.ended - one.began)
        return ", ".join(
            f"{status} in {seconds:.1f} s" for status, seconds in sorted(longest.items())
        )

    def recovered_at(self, after: float) -> float | None:
        """Since when all requests are answered, if that is long enough ago."""
        bad = [one.ended for one in self.seen if one.ended > after and one.status not in ANSWERED]
        since = max(bad, default=after)
        good = [one for one in self.seen if one.began >= since]
        return since if good and good[-1].ended - since > GOOD_SECONDS else None


def main() -> None:
    """Measure each pair with each fault, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", default="", help="pairs and faults that match, as a regular expression"
    )
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("INSTACHAT_")]:
        del os.environ[name]
    network = LossyNetwork(seed=0) if os.geteuid() == 0 else None  # before there is any thread
    with tempfile.TemporaryDirectory(prefix="instachat-network-") as folder:
        installation = (
            LossyInstallation(Path(folder), 0, standby=True, network=network, loss=0.0)
            if network
            else NetworkInstallation(Path(folder), 0, standby=True)
        )
        harms = [*HARMS, *(_lose(network, share) for share in LOST_SHARES if network)]
        _measure(installation, harms, options.only)


def _lose(network: LossyNetwork, share: float) -> Harm:
    return Harm(
        f"{share:.0%} of the packets are lost",
        lambda link: network.lose(link.host, share),
        lambda link: network.lose(link.host, 0.0),
    )


def _measure(made: NetworkInstallation, harms: Sequence[Harm], only: str) -> None:
    with made as installation:
        probes = _probes(installation)
        columns = [probe.kind for probe in probes]
        _emit(["between", "the fault", *columns, "as before after"])
        _emit(["---"] * (len(columns) + 3))
        for probe in probes:
            probe.start()
        time.sleep(GOOD_SECONDS)
        for pair, program, engine in PAIRS:
            links = [link for link in installation.links if link.program.startswith(program)]
            links = [link for link in links if _leads_to(link.proxy, engine, installation)]
            for harm in harms:
                if re.search(only, f"{pair}: {harm.name}"):
                    _emit([pair, harm.name, *_harm(harm, links, probes)])
        for probe in probes:
            probe.end()


def _harm(harm: Harm, links: Sequence[Link], probes: Sequence[Probe]) -> list[str]:
    """The cells of one row."""
    begin = time.monotonic()
    for link in links:
        harm.begin(link)
    time.sleep(HARM_SECONDS)
    end = time.monotonic()
    for link in links:
        harm.end(link)
    while any(probe.recovered_at(end) is None for probe in probes):
        if time.monotonic() - end > MAX_RECOVERY_SECONDS:
            return [*(probe.describe(begin, end) for probe in probes), "never"]
        time.sleep(PAUSE_SECONDS)
    recovered = [probe.recovered_at(end) or end for probe in probes]
    slowest = max(range(len(probes)), key=recovered.__getitem__)
    took = recovered[slowest] - end
    after = f"{took:.1f} s ({probes[slowest].kind})" if took > PAUSE_SECONDS else "at once"
    return [*(probe.describe(begin, end) for probe in probes), after]


def _leads_to(proxy: Proxy, engine: str, installation: NetworkInstallation) -> bool:
    to_redis = proxy.target == ("127.0.0.1", installation.redis.port)
    return to_redis == (engine == "redis")


def _probes(installation: NetworkInstallation) -> list[Probe]:
    urls = installation.urls[:1]

    def client() -> HttpClient:
        return HttpClient(Recorder(), 0, urls)

    setup = client()

    def create(path: str, **more: object) -> dict[str, Any]:
        """Ask until it is created: at first a replica may not be there that has to confirm."""
        while True:
            exchange = setup.ask(0, "POST", path, **more)  # type: ignore[arg-type]
            if exchange.status in ANSWERED:
                answer: dict[str, Any] = exchange.answer
                return answer
            time.sleep(PAUSE_SECONDS)

    token = create("/api/v1/applications", body={"application": {"name": "x"}})["token"]
    path = f"/api/v1/applications/{token}/chats"
    messages = f"{path}/{create(path)['number']}/messages"
    body = {"message": {"text": "amber"}}
    create(messages, body=body, query={"wait": "stored"})

    def ask(method: str, path: str, **more: object) -> Callable[[HttpClient], int | None]:
        return lambda client: client.ask(0, method, path, **more).status  # type: ignore[arg-type]

    kinds = {
        "create": ask("POST", messages, body=body),
        "create, `wait=stored`": ask("POST", messages, body=body, query={"wait": "stored"}),
        "read": ask("GET", f"{messages}/1"),
        "list": ask("GET", messages, query={"limit": "5"}),
        "search": ask("GET", messages, query={"keyword": "amber", "limit": "5"}),
        "edit": ask("PATCH", f"{messages}/1", body=body),
    }
    return [Probe(name, client(), kind) for name, kind in kinds.items()]


def _emit(cells: Sequence[str]) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
