"""The status page shows in any browser, live, whether everything is well."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, OpenPage, RunningInstallation
from tests.support.http_server import ApplicationClient
from tests.support.waiting import promised, wait_until

pytestmark = pytest.mark.xdist_group("browser")


@contextmanager
def hanging(running: RunningInstallation, engine: str) -> Iterator[None]:
    """Inside this context an engine accepts connections and never answers; afterwards all is well again."""

    def send(number: signal.Signals) -> None:
        if engine == "PostgreSQL":
            running.engines.postgres.send_all(number)
        else:
            running.redis.send(number)

    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)
    wait_until(lambda: b"All is well" in running.server("GET", "/").body)


def expect_summary(page: Page, said: str) -> None:
    """The summary at the top shows this text soon."""
    expect(page.locator("#summary strong")).to_contain_text(said)


def state(page: Page, figure: str) -> str:
    """The state shown beside a figure."""
    line = page.locator("dl > div", has=page.get_by_text(figure, exact=True))
    return line.locator(".state").inner_text()


def test_every_figure_is_well_while_everything_runs(open_page: OpenPage) -> None:
    """The title and the summary say so, too."""
    page = open_page("/")
    expect_summary(page, "All is well")
    expect(page).to_have_title("InstaChat: all is well")
    states = page.locator(".state").all_inner_texts()
    assert states == ["✓ well"] * 13, page.locator("dl").all_inner_texts()


def test_the_last_minute_is_charted(open_page: OpenPage) -> None:
    """Each rate and lag has a line that grows while the page is open; screen readers get it in words."""
    page = open_page("/")
    charts = page.locator("#history svg")
    wait_until(lambda: charts.count() == 4)  # without Elasticsearch nothing is published
    names = [chart.get_attribute("aria-label") or "" for chart in charts.all()]
    assert [name.partition(":")[0] for name in names] == [
        *("Accepted", "Stored", "Oldest not stored", "Oldest not counted")
    ]
    line = charts.nth(2).locator("path")
    before = line.get_attribute("d") or ""
    wait_until(lambda: (line.get_attribute("d") or "").count("L") > before.count("L"))


@pytest.mark.parametrize("engine", ["PostgreSQL", "Valkey"])
def test_the_open_page_shows_a_hanging_engine_and_its_return(
    running: RunningInstallation, open_page: OpenPage, engine: str
) -> None:
    """A request meanwhile takes about a second, and does not wait for the engine."""
    page = open_page("/")
    expect_summary(page, "All is well")
    other = "Valkey" if engine == "PostgreSQL" else "PostgreSQL"
    with hanging(running, engine):
        expect_summary(page, "not well")
        expect(page.locator("#summary li").first).to_contain_text(f"{engine} does not answer")
        assert state(page, other) == "✓ well"
        with promised(1):
            running.server("GET", "/")
    expect_summary(page, "All is well")


def test_the_page_works_without_scripts(open_page: OpenPage) -> None:
    """The first response contains everything, and the browser reloads the page periodically."""
    page = open_page("/", java_script_enabled=False)
    expect_summary(page, "All is well")
    expect(page.locator("dl > div").first).to_contain_text("answers in")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    first = page.locator("#snapshot time").get_attribute("datetime")
    assert first
    expect(page.locator("#snapshot time")).not_to_have_attribute("datetime", first)


def test_the_page_marks_its_figures_as_old_without_the_server(open_page: OpenPage) -> None:
    """It recovers with the server."""
    page = open_page("/")
    page.route("**/", lambda route: route.fulfill(body="a proxy's own page"))
    expect_summary(page, "This page's server does not answer")
    page.unroute("**/")
    expect_summary(page, "All is well")


def test_the_page_can_be_paused(open_page: OpenPage) -> None:
    """The button stops the updates, and resumes them."""
    page = open_page("/")
    asked: list[str] = []
    page.get_by_role("button", name="Pause").click()
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2_500)  # without the pause: a request every two seconds
    assert asked == []
    with page.expect_request("**/"):
        page.get_by_role("button", name="Resume").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(
    running: RunningInstallation, open_page: OpenPage, scheme: str
) -> None:
    """axe-core finds no violation, contrast included, whether all is well or not."""
    page = open_page("/", color_scheme=scheme, viewport=PHONE)
    assert Axe().run(page).generate_report().startswith("Found 0")
    with hanging(running, "Valkey"):
        expect_summary(page, "not well")
        assert Axe().run(page).generate_report().startswith("Found 0")
    expect_summary(page, "All is well")


@pytest.mark.parametrize("width", [320, PHONE["width"], DESKTOP["width"]])
def test_the_page_never_scrolls_horizontally(open_page: OpenPage, width: int) -> None:
    page = open_page("/", viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_is_a_few_kilobytes_in_few_files(open_page: OpenPage) -> None:
    """They are the page, a style, a script, and an icon."""
    page = open_page("/")
    sizes = page.evaluate(
        "performance.getEntries().filter(e => e.encodedBodySize).map(e => e.encodedBodySize)"
    )
    assert 3 <= len(sizes) <= 4  # the browser may load the icon later
    assert sum(sizes) < 8_000


def test_the_page_and_the_metrics_show_no_stored_data(running: RunningInstallation) -> None:
    """They have totals only: no name, no token, no text, and no engine's address."""
    application = ApplicationClient(running.server)
    running.server("POST", f"{application.path}/chats")
    text = {"message": {"text": "A secret text"}}
    assert running.server("POST", f"{application.path}/chats/1/messages", text).status == 202
    with hanging(running, "Valkey"):
        wait_until(lambda: b"does not answer" in running.server("GET", "/").body)
        shown = running.server("GET", "/").body + running.server("GET", "/metrics").body
    for secret in (
        "Support desk",
        "secret",
        application.token,
        "postgresql://",
        "redis://",
        f":{running.redis.port}",
    ):
        assert secret.encode() not in shown


def test_many_viewers_cost_no_more_than_one(running: RunningInstallation) -> None:
    """The engines are asked once a second, however many viewers there are."""
    redis = running.redis.client()
    redis.config_resetstat()
    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(lambda _: running.server("GET", "/").body, range(300)))
    seconds = time.monotonic() - began
    assert all(b"All is well" in page for page in pages)
    # A poll pings twice: once for the state of Redis, once for the report.
    pings = redis.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
    assert pings <= 2 * (seconds + 2)


def test_the_policy_allows_only_this_servers_scripts(running: RunningInstallation) -> None:
    """The policy has no exception for inline scripts or other hosts."""
    for path in ("/", "/docs"):
        policy = running.server("GET", path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
