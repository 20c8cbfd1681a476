"""A running installation, and Chromium to open its pages."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.settings import Settings
from tests.conftest import Engines
from tests.http.conftest import running_worker
from tests.support.browser import chromium as chromium
from tests.support.engines import RedisServer, valkey_binary
from tests.support.http_server import HttpServer
from tests.support.waiting import PATIENCE_SECONDS, wait_until

expect.set_options(timeout=PATIENCE_SECONDS * 1_000)
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}


@dataclass(frozen=True, slots=True)
class RunningInstallation:
    """An installation with its own Redis, which tests may stop."""

    engines: Engines
    redis: RedisServer
    server: HttpServer

    @property
    def url(self) -> str:
        """The address of its pages."""
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture(scope="session")
def running(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningInstallation]:
    """A server and a worker, both running and well."""
    with ExitStack() as stack:
        redis = RedisServer(valkey_binary())
        stack.callback(redis.remove)
        redis.start()
        settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
        server = HttpServer(settings, tmp_path_factory.mktemp("browser"))
        stack.callback(server.remove)
        stack.enter_context(running_worker(server))
        server.wait_ready()
        wait_until(lambda: b"All is well" in server("GET", "/").body)
        yield RunningInstallation(engines, redis, server)


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser, running: RunningInstallation) -> Iterator[OpenPage]:
    """Opens a page of the server in a fresh browser context.

    Fails at the end if the browser has logged an error or a warning, such as a violated policy, or has
    contacted another host.
    """
    messages: list[str] = []
    hosts: set[str] = set()
    with ExitStack() as stack:

        def open_page(path: str, **options: Any) -> Page:
            context = chromium.new_context(**({"viewport": DESKTOP} | options))
            context.set_default_timeout(PATIENCE_SECONDS * 1_000)
            stack.callback(context.close)
            page = context.new_page()
            page.on(
                "console",
                lambda said: (
                    messages.append(said.text) if said.type in ("error", "warning") else None
                ),
            )
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
            page.goto(running.url + path)
            return page

        yield open_page
    assert messages == []
    assert hosts <= {urlsplit(running.url).netloc, ""}  # data: addresses have no host
