"""The API documentation page: reading it, and trying operations."""

import json
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PHONE, OpenPage, RunningInstallation

pytestmark = pytest.mark.xdist_group("browser")


def try_out(page: Page, operation: str, body: object = None, **parameters: str) -> tuple[str, Any]:
    """Click "Try it out", fill in the form, and execute; returns the shown status and body."""
    block = page.locator(f"#operations-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    for name, value in parameters.items():
        block.locator(f'tr[data-param-name="{name}"] input').fill(value)
    if body is not None:
        block.locator("textarea.body-param__text").fill(json.dumps(body))
    block.get_by_role("button", name="Execute").click()
    response = block.locator(".live-responses-table tr.response").first
    status = response.locator(".response-col_status").inner_text().strip()
    return status, json.loads(_shown(response))


def _shown(response: Locator) -> str:
    return response.locator("pre.microlight").first.inner_text()


def test_the_page_creates_an_application_a_chat_and_a_message(
    running: RunningInstallation, open_page: OpenPage
) -> None:
    """It sends valid requests, and shows their responses."""
    page = open_page("/docs")
    status, made = try_out(
        page, "applications-create_application", {"application": {"name": "Clicked"}}
    )
    assert status == "201"
    token = made["token"]
    assert try_out(page, "chats-create_chat", token=token) == ("202", {"number": 1})
    assert try_out(
        page,
        "messages-create_message",
        {"message": {"text": "Good morning"}},
        token=token,
        chat="1",
    ) == ("202", {"number": 1})
    found = running.server("GET", f"/api/v1/applications/{token}").json
    assert (found["name"], found["chats_count"]) == ("Clicked", 1)


def test_every_operation_is_shown(running: RunningInstallation, open_page: OpenPage) -> None:
    """The page shows every operation of this server's OpenAPI document."""
    document = running.server("GET", "/openapi.json").json
    operations = [
        name for path in document["paths"].values() for name in path if name != "parameters"
    ]
    page = open_page("/docs", viewport=PHONE)
    expect(page.locator(".opblock")).to_have_count(len(operations))


def test_an_open_operation_fits_a_phone(open_page: OpenPage) -> None:
    """A part that is wider than the screen scrolls by itself; the page never scrolls horizontally."""
    page = open_page("/docs", viewport=PHONE)
    block = page.locator("#operations-messages-create_message")
    block.locator(".opblock-summary-control").click()
    expect(block.locator(".responses-table").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_page_follows_the_colour_scheme_of_the_system(open_page: OpenPage) -> None:
    """It is dark if the system is, and follows a change."""
    page = open_page("/docs", color_scheme="dark")
    body, white = page.locator("body"), "rgb(255, 255, 255)"
    expect(body).not_to_have_css("background-color", white)
    page.emulate_media(color_scheme="light")
    expect(body).to_have_css("background-color", white)
